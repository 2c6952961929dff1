"""Small classifiers of small grey images: the features behind FD-<name> where no pretrained network is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusion.evaluation.features.base import OwnExtractor
from diffusion.evaluation.features.checked import verified

HERE = Path(__file__).parent / "weights"


class SmallCNN(nn.Module):
    """Two convolutions, a pooled map, one hidden layer of ReLUs: (B, 1, R, R) in [0, 1] -> features and logits."""

    def __init__(self, resolution: int, channels: tuple[int, int], early_pool: bool, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], 3, padding=1)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.early_pool = early_pool
        side = resolution // (4 if early_pool else 2)
        self.hidden = nn.Linear(channels[1] * side * side, width)
        self.out = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``features`` (B, width), ``logits`` (B, 10), ``spatial`` (B, 7 side^2): seven channels of the pooled map."""
        x = self.conv1(x).relu()
        if self.early_pool:
            x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        features = self.hidden(x.flatten(1)).relu()
        return {"features": features, "logits": self.out(features), "spatial": x[:, :7].flatten(1)}


class GreyClassifier(OwnExtractor):
    """A :class:`SmallCNN` with shipped weights, in torch-fidelity's extractor interface.

    Raises:
        ValueError: weights of another hash; images that are not uint8, grey, or of the trained resolution.
    """

    registered: ClassVar[str]
    file: ClassVar[str]
    sha256: ClassVar[str]
    resolution: ClassVar[int]
    channels: ClassVar[tuple[int, int]]
    early_pool: ClassVar[bool]
    width: ClassVar[int]

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **kwargs: object
    ) -> None:
        super().__init__(name, features_list)
        self.network = self.fresh()
        path = Path(feature_extractor_weights_path or HERE / self.file)
        weights = load_file(verified(path, self.sha256))
        self.network.load_state_dict({key: value.float() for key, value in weights.items()})

    @classmethod
    def fresh(cls) -> SmallCNN:
        """The network before training."""
        return SmallCNN(cls.resolution, cls.channels, cls.early_pool, cls.width)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        expected = (1, self.resolution, self.resolution)
        if image.dtype != torch.uint8 or tuple(image.shape[1:]) != expected:
            raise ValueError(
                f"extractor {self.registered} takes uint8 images (B, {', '.join(map(str, expected))}), got "
                f"{image.dtype} {tuple(image.shape)}; choose evaluation.extractor for these data"
            )
        out = self.network(image.float() / 255)
        return tuple(out[name] for name in self.features_list)


class DigitsClassifier(GreyClassifier):
    """``digits-cnn-v1``: 8 x 8 digits, 64 features, trained on the 900 training images alone."""

    registered = "digits-cnn-v1"
    file = "digits-cnn-v1.safetensors"
    sha256 = "236ce22c24c05ce7289c95a58f1aa6ea600b9c03dad7c81b47640ab019898fc5"
    resolution = 8
    channels = (32, 64)
    early_pool = False
    width = 64


class FashionClassifier(GreyClassifier):
    """``fashion-cnn-v1``: 28 x 28 Fashion-MNIST, 128 features, trained on the 60,000 training images alone."""

    registered = "fashion-cnn-v1"
    file = "fashion-cnn-v1.safetensors"
    sha256 = "af1c89b695193e123b387595b32ba241d207bdcc29fa3cc38986734cb9f079e7"
    resolution = 28
    channels = (16, 32)
    early_pool = True
    width = 128
