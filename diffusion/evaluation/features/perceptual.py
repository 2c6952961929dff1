r"""Perceptual distances: of the maps of a frozen network, at images' own size, with gradients.

With the map of layer l at a place scaled to unit length over its channels, f / sqrt(|f|^2 + eps), the distance of two
images is the mean over places of the squared difference, each channel weighted (Zhang et al. 2018, eq. 1):

    d(x, y) = sum_l mean_hw sum_c w_lc (f_l(x) - f_l(y))^2.

LPIPS has learned weights; here, other networks have w = 1 / number of layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusion.evaluation.features.checked import verified
from diffusion.evaluation.features.classifier import DigitsClassifier, FashionClassifier, GreyClassifier
from diffusion.evaluation.features.efficientnet import EfficientNetLite0

VGG = "vgg16-397923af.pth"
"""torchvision's file; its name holds the first digits of its sha256."""
GREY: dict[str, type[GreyClassifier]] = {one.registered: one for one in (DigitsClassifier, FashionClassifier)}
KEYS = "module.loss.perceptual or objective.metric.network"
"""Where a config names one."""
NAMES = (*GREY, EfficientNetLite0.registered, "lpips")


def perceptual(extractor: str | None = None, weights: str | None = None) -> PerceptualDistance | None:
    """The distance of a named network, ``None`` without one.

    Args:
        extractor: ``digits-cnn-v1``, ``fashion-cnn-v1`` (grey images of their size), ``efficientnet-lite0``, or
            ``lpips`` (Zhang et al. 2018, VGG-16, version 0.1).
        weights: of lpips: torchvision's VGG-16; torch's own copy where ``None``.

    Raises:
        ValueError: an unknown name, or weights that are not there.
    """
    if extractor is None:
        return None
    if extractor in GREY:
        return GreyDistance(GREY[extractor])
    if extractor == EfficientNetLite0.registered:
        return EfficientNetDistance()
    if extractor == "lpips":
        return LPIPS(weights)
    raise ValueError(
        f"no perceptual distance '{extractor}'; the extractor of {KEYS} is one of {', '.join(NAMES)}, or null"
    )


class PerceptualDistance(nn.Module, ABC):
    """Two batches (B, C, H, W) in [-1, 1] -> (B,) distances, see the head of this file; grey images count as three
    equal channels where the network reads colours."""

    eps = 1e-2
    """Of a squared length: places without features then count little."""

    @abstractmethod
    def maps(self, x: Tensor) -> list[Tensor]:
        """What is compared, (B, c, h, w) each."""

    def weigh(self, difference: Tensor, layer: int, layers: int) -> Tensor:
        """Squared differences (B, c, h, w) of a layer -> (B, h, w)."""
        return difference.sum(1) / layers

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            pairs = list(zip(self.maps(x.float()), self.maps(y.float()), strict=True))
            distances = [
                self.weigh((self._scaled(one) - self._scaled(other)).square(), layer, len(pairs)).mean((1, 2))
                for layer, (one, other) in enumerate(pairs)
            ]
        return torch.stack(distances).sum(0)

    def _scaled(self, x: Tensor) -> Tensor:
        return x * (x.square().sum(1, keepdim=True) + self.eps).rsqrt()


class GreyDistance(PerceptualDistance):
    """Both convolutions of a small classifier of grey images.

    Raises:
        ValueError: images of another size.
    """

    def __init__(self, classifier: type[GreyClassifier]) -> None:
        super().__init__()
        self.name, self.resolution = classifier.registered, classifier.resolution
        with torch.random.fork_rng(devices=[]):
            self.network = classifier(classifier.registered, ["features"]).network.requires_grad_(False).eval()

    def maps(self, x: Tensor) -> list[Tensor]:
        if tuple(x.shape[1:]) != (1, self.resolution, self.resolution):
            raise ValueError(
                f"{self.name} compares grey images of {self.resolution} pixels, got {list(x.shape[1:])}; set "
                f"the extractor of {KEYS} to efficientnet-lite0, lpips or null"
            )
        network = self.network
        first = network.conv1((x + 1) / 2).relu()
        return [first, network.conv2(nn.functional.max_pool2d(first, 2) if network.early_pool else first).relu()]


class EfficientNetDistance(PerceptualDistance):
    """The last block at each of the five sizes of EfficientNet-Lite0 (Tan & Le 2019), on ImageNet's weights."""

    blocks = (0, 2, 4, 10, 15)

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            built = EfficientNetLite0(EfficientNetLite0.registered, ["features"])
        self.network = built.network.requires_grad_(False).eval()

    def maps(self, x: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        handles = [
            self.network._blocks[at].register_forward_hook(lambda module, args, output: found.append(output))
            for at in self.blocks
        ]
        try:
            self.network.extract_features((127.5 * _coloured(x) + 0.5) / 128)
        finally:
            for handle in handles:
                handle.remove()
        return found


class LPIPS(PerceptualDistance):
    """LPIPS 0.1 on VGG-16: the ReLUs before each of its five poolings, weighted as Zhang et al. 2018 learned it.

    Args:
        weights: torchvision's VGG-16; torch's own copy where ``None``.

    Raises:
        ValueError: there is no such file, or it is another.
    """

    eps = 1e-8
    ends = (4, 9, 16, 23, 30)
    shift: Tensor
    size: Tensor

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        path = Path(torch.hub.get_dir()) / "checkpoints" / VGG if weights is None else Path(weights)
        if weights is None and not path.is_file():
            raise ValueError(
                f"lpips needs torchvision's weights of VGG-16 and {path} is not there; download {VGG} into it, or set "
                f"weights of {KEYS} to the file, or its extractor to efficientnet-lite0"
            )
        from torchvision.models import vgg16

        with torch.device("meta"):
            network = vgg16(weights=None).features
        saved = torch.load(verified(path, None), map_location="cpu", weights_only=True, mmap=True)
        own = {name.removeprefix("features."): x for name, x in saved.items() if name.startswith("features.")}
        network.load_state_dict(own, assign=True)
        self.network = network.requires_grad_(False).eval()
        learned = torch.load(
            str(files("torchmetrics").joinpath("functional/image/lpips_models/vgg.pth")), "cpu", weights_only=True
        )
        for layer in range(len(self.ends)):
            self.register_buffer(f"weight{layer}", learned[f"lin{layer}.model.1.weight"][0])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("size", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def maps(self, x: Tensor) -> list[Tensor]:
        x, start, found = (_coloured(x) - self.shift) / self.size, 0, []
        for end in self.ends:
            x = self.network[start:end](x)
            found.append(x)
            start = end
        return found

    def weigh(self, difference: Tensor, layer: int, layers: int) -> Tensor:
        weight: Tensor = getattr(self, f"weight{layer}")
        return (difference * weight).sum(1)


def _coloured(x: Tensor) -> Tensor:
    return x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
