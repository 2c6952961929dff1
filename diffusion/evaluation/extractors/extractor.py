"""Which features: an extractor by name, its weights verified, built when they are needed and not before."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from diffusion.evaluation.extractors.checked import sha256_of, verified
from diffusion.evaluation.extractors.classifier import DigitsClassifier, GreyClassifier

OWN: dict[str, type[GreyClassifier]] = {cls.registered: cls for cls in (DigitsClassifier,)}
for _name, _class in OWN.items():
    if _name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(_name, _class)


class Extractor:
    """An extractor of torch-fidelity's registry.

    name: ``digits-cnn-v1``, ``fashion-cnn-v1``, ``inception`` (torch-fidelity's ``inception-v3-compat``, the one whose
    distance is called FID), or any registered name. weights: a local file where the weights are not shipped. sha256:
    what that file must hash to.

    Raises:
        ValueError: an unknown name, a missing file, another hash.
    """

    def __init__(self, name: str, weights: str | None = None, sha256: str | None = None) -> None:
        self.name = name
        self.registered = "inception-v3-compat" if name == "inception" else name
        self.weights = weights
        self.sha256 = sha256
        if self.registered not in FEATURE_EXTRACTORS_REGISTRY:
            known = ", ".join(["inception", *sorted(OWN), *sorted(set(FEATURE_EXTRACTORS_REGISTRY) - set(OWN))])
            raise ValueError(f"no feature extractor '{name}'; evaluation.extractor is one of {known}")
        if weights is not None:
            verified(weights, sha256)

    @property
    def is_inception(self) -> bool:
        return self.registered == "inception-v3-compat"

    def layer(self, metric: str) -> str:
        """The layer that a metric of ours reads."""
        if metric == "sfid":
            return "spatial"
        short = {"is": "isc", "fd": "fid", "kid": "kid"}.get(metric, "prc")
        return str(FEATURE_EXTRACTORS_REGISTRY[self.registered].get_default_feature_layer_for_metric(short))

    def build(self, layers: list[str], device: torch.device | str = "cpu") -> FeatureExtractorBase:
        """The extractor giving these layers, frozen, on ``device``, in float32."""
        return create_feature_extractor(
            self.registered, layers, cuda=False, feature_extractor_weights_path=self.weights, verbose=False
        ).to(device)

    @cached_property
    def weights_sha256(self) -> str | None:
        """Of the file that is read; ``None`` where torch-fidelity fetches it by name."""
        if self.registered in OWN:
            return OWN[self.registered].sha256
        return None if self.weights is None else sha256_of(self.weights)

    def describe(self) -> dict[str, Any]:
        resize = "none" if self.registered in OWN else "TensorFlow 1 bilinear, no antialias, to the network's size"
        return {
            "name": self.name,
            "registered": self.registered,
            "weights_sha256": self.weights_sha256,
            "resize": resize,
            "dtype": "float32",
        }


@torch.no_grad()
def extract(extractor: FeatureExtractorBase, images: Tensor) -> dict[str, Tensor]:
    """uint8 (B, C, H, W) -> {layer: (B, D) float32 on the CPU}, outside autocast."""
    device = next(extractor.parameters()).device
    # Strides choose the convolution's kernel, and with it the last bits: pictures from anywhere get the same ones.
    images = images.to(device).clone(memory_format=torch.contiguous_format)
    with torch.autocast(device.type, enabled=False):
        features = extractor(images)
    return {name: rows.float().cpu() for name, rows in extractor.convert_features_tuple_to_dict(features).items()}
