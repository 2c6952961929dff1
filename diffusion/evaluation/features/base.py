"""The part of torch-fidelity's extractor interface that all extractors of this project share."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase


class OwnExtractor(FeatureExtractorBase):
    """Gives ``features``, ``logits`` and ``spatial``; the first for every metric but the inception score.

    registered: its name, which every metric's name holds; another version of its weights is another name.
    """

    registered: ClassVar[str]

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features", "logits", "spatial")

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        raise NotImplementedError
