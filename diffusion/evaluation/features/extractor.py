"""An extractor by name: its weights verified, its network built when features are needed and not before."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from diffusion.describe import weights_sha256
from diffusion.evaluation.features import inception
from diffusion.evaluation.features.base import OwnExtractor
from diffusion.evaluation.features.checked import verified
from diffusion.evaluation.features.classifier import DigitsClassifier, FashionClassifier, GreyClassifier
from diffusion.evaluation.features.efficientnet import SHA256 as EFFICIENTNET
from diffusion.evaluation.features.efficientnet import EfficientNetLite0
from diffusion.evaluation.features.inception import InceptionSpatial
from diffusion.files import sha256_of

OWN = (DigitsClassifier, FashionClassifier, EfficientNetLite0, InceptionSpatial)
CHANNELS_LAST = ("efficientnet-lite0",)
"""Extractors that run in channels-last: faster on CPUs (``python -m benchmarks --rows 13``), in other last bits. The
others are slower in it or, as Inception, give torch-fidelity's own bits in the contiguous format only."""
for _class in OWN:  # torch-fidelity refuses a second registration, and a process may import this module twice
    if _class.registered not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(_class.registered, _class)


class Indexed(Protocol):
    """Images by index: a uint8 tensor (N, C, H, W), or an object that reads them on access."""

    @property
    def shape(self) -> Any: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Tensor: ...


class Extractor:
    """An extractor of torch-fidelity's registry.

    name: ``digits-cnn-v1``, ``fashion-cnn-v1``, ``efficientnet-lite0``, ``inception`` (torch-fidelity's
    ``inception-v3-compat``, the one whose distance is called FID), ``dinov2-vit-l-14``, ``clip-vit-b-32`` or any other
    registered name; or the full path of an :class:`OwnExtractor` of one's own, whose ``registered`` is its name.
    weights: a local file where the weights are not shipped. sha256: what that file must hash to.

    Raises:
        ValueError: an unknown name, a missing file, another hash.
    """

    def __init__(self, name: str, weights: str | None = None, sha256: str | None = None) -> None:
        if "." in name and name not in FEATURE_EXTRACTORS_REGISTRY:
            name = _own(name)
        self.name = name
        self.weights = weights
        self.sha256 = sha256
        self._fetched: str | None = None
        self.registered = InceptionSpatial.registered if name == "inception" else name
        if self.registered not in FEATURE_EXTRACTORS_REGISTRY:
            known = ", ".join(["inception", *sorted(FEATURE_EXTRACTORS_REGISTRY)])
            raise ValueError(f"no feature extractor '{name}'; evaluation.extractor is one of {known}")
        self._class: type[FeatureExtractorBase] = FEATURE_EXTRACTORS_REGISTRY[self.registered]
        if weights is not None:
            expected = inception.SHA256 if name == "inception" else None
            verified(weights, sha256 or expected)

    def layer(self, metric: str, reads: str = "features") -> str:
        """The layer that a metric reads: ``features``, ``spatial`` or ``logits``, under the extractor's own name.

        Raises:
            ValueError: this extractor has none for it.
        """
        features = str(self._class.get_default_feature_layer_for_metric("fid"))
        if reads == "spatial":
            if "spatial" not in self._class.get_provided_features_list():
                raise ValueError(f"{self.name} has no spatial features; leave {metric} out of evaluation.metrics")
            return "spatial"
        if reads == "logits":
            logits = str(self._class.get_default_feature_layer_for_metric("isc"))
            if logits == features:
                raise ValueError(
                    f"{self.name} gives no class probabilities, which the inception score is made of; "
                    f"leave {metric} out of evaluation.metrics"
                )
            return logits
        return features

    def build(self, layers: list[str], device: torch.device | str = "cpu") -> FeatureExtractorBase:
        """The extractor giving these layers, frozen, on ``device``, in float32.

        Raises:
            ValueError: weights that are not there, cannot be fetched, or hash to something else.
        """
        path = self.weights
        if self.name == "inception":
            path = str(inception.weights(self.weights, self.sha256))
        elif path is not None and issubclass(self._class, FeatureExtractorDinoV2):
            raise ValueError(
                "torch-fidelity reads DINOv2 from torch.hub only, not from a file; leave evaluation.weights out and "
                f"put the hub's copy of facebookresearch/dinov2 into {torch.hub.get_dir()}"
            )
        try:
            with torch.random.fork_rng(devices=[]):  # initial weights, overwritten at once, draw from the global RNG
                built = create_feature_extractor(
                    self.registered, layers, cuda=False, feature_extractor_weights_path=path, verbose=False
                )
        except OSError as error:  # a download that failed
            raise ValueError(
                f"the weights of {self.name} could not be fetched ({error}); "
                + (
                    "download the archive on a machine with a network and set evaluation.weights to it"
                    if issubclass(self._class, FeatureExtractorCLIP)
                    else f"fill {torch.hub.get_dir()} on a machine with a network"
                )
            ) from error
        if self._weights_sha256() is None:
            self._fetched = weights_sha256(built)
        form = torch.channels_last if self.name in CHANNELS_LAST else torch.contiguous_format
        return built.to(device, memory_format=form)

    def describe(self) -> dict[str, Any]:
        """For the record. ``weights_sha256`` is the file's; where torch-fidelity fetches weights by name, the tensors'
        (``None`` before :meth:`build`).
        """
        grey = issubclass(self._class, GreyClassifier)
        return {
            "name": self.name,
            "registered": self.registered,
            "weights_sha256": self._weights_sha256(),
            "resize": "none" if grey else "TensorFlow 1 bilinear, no antialias, to the network's size",
            "grey": "as it is" if grey else "repeated to three channels",
            "dtype": "float32",
            **({"memory_format": "channels_last"} if self.name in CHANNELS_LAST else {}),
        }

    def _weights_sha256(self) -> str | None:
        if self.weights is not None:
            return sha256_of(self.weights)
        if issubclass(self._class, GreyClassifier):
            return self._class.sha256
        return {"inception": inception.SHA256, "efficientnet-lite0": EFFICIENTNET}.get(self.name, self._fetched)


def _own(path: str) -> str:
    """The name of an extractor by its full path, now in torch-fidelity's registry.

    Raises:
        ValueError: no such class.
    """
    module, _, name = path.rpartition(".")
    try:
        found: Any = vars(import_module(module))[name]
    except (ModuleNotFoundError, KeyError) as error:
        raise ValueError(
            f"evaluation.extractor={path} is no class that can be imported ({error}); give package.module.Class"
        ) from None
    if not (isinstance(found, type) and issubclass(found, OwnExtractor) and hasattr(found, "registered")):
        raise ValueError(f"evaluation.extractor={path} is no OwnExtractor with a name in 'registered'; give it both")
    registry: dict[str, Any] = FEATURE_EXTRACTORS_REGISTRY
    if registry.setdefault(found.registered, found).__qualname__ != found.__qualname__:
        raise ValueError(f"evaluation.extractor={path} is named {found.registered!r}, as another is; rename it")
    return str(found.registered)


@torch.no_grad()
def extract(extractor: FeatureExtractorBase, images: Tensor) -> dict[str, Tensor]:
    """uint8 (B, C, H, W) -> {layer: (B, D) float32 on the CPU}, outside autocast."""
    device = next(extractor.parameters()).device
    # Strides choose the convolution's kernel, and with it the last bits: images from anywhere get the same ones.
    images = images.to(device).clone(memory_format=torch.contiguous_format)
    if images.shape[1] == 1 and not isinstance(extractor, GreyClassifier):
        images = images.repeat(1, 3, 1, 1)
    with torch.autocast(device.type, enabled=False):
        features = extractor(images)
    return {name: rows.float().cpu() for name, rows in extractor.convert_features_tuple_to_dict(features).items()}
