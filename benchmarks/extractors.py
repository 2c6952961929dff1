"""Row 13: images/s of each feature extractor against torch-fidelity's own loop over the same images.

Ours: the network as evaluations build it, in its memory format (``features/extractor.py``). Theirs: the registered
extractor and ``get_featuresdict_from_dataset``, the loop of ``calculate_metrics``, without worker processes, whose
start would count on so few images. Same weights, batches and allocator. Inception's weights are random: only its time
is measured, and no file is needed. EfficientNet is left out where its package is not installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

from benchmarks.harness import Row, counts, race, ratio
from diffusion.evaluation.features.extractor import Extractor, extract
from diffusion.files import sha256_of

IMAGES = {
    "digits-cnn-v1": (1024, 1, 8),
    "fashion-cnn-v1": (512, 1, 28),
    "efficientnet-lite0": (64, 3, 32),
    "inception": (16, 3, 32),
}
"""Images, channels and resolution of a call, one batch each."""


def rows(budget: float = 120.0, small: bool = False) -> list[Row]:
    """Row 13, a line an extractor."""
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (count, channels, side) in IMAGES.items():
            if name == "efficientnet-lite0" and find_spec("efficientnet_lite_pytorch") is None:
                continue
            weights = _random_inception(Path(folder)) if name == "inception" else None
            extractor = Extractor(name, weights, None if weights is None else sha256_of(weights))
            layer = extractor.layer("fd")
            images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8)
            timings = race(_contestants(extractor, layer, images), budget / len(IMAGES))
            speed = {who: count / timing.median for who, timing in timings.items()}
            table.append(
                Row("13", f"{name}, batch {count}: images/s ({speed['ours']:,.0f})",
                    f"torch-fidelity ({speed['theirs']:,.0f})",
                    ratio(timings, "theirs", "ours"), 0.9, 1.0, False, counts(timings, "ours", "theirs"))
            )  # fmt: skip
    return table


def _contestants(extractor: Extractor, layer: str, images: Tensor) -> dict[str, Callable[[], object]]:
    network = extractor.build([layer])
    peer = create_feature_extractor(
        extractor.registered, [layer], cuda=False, feature_extractor_weights_path=extractor.weights, verbose=False
    )
    data = _Images(images)
    return {
        "ours": lambda: extract(network, images),
        "theirs": lambda: get_featuresdict_from_dataset(data, peer, len(images), False, True, False),
    }


class _Images(Dataset[Tensor]):
    """A tensor as torch-fidelity takes images."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


class _Untrained(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception with its initial weights."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return None


def _random_inception(folder: Path) -> str:
    empty, path = folder / "empty.pth", folder / "inception.pth"
    torch.save({}, empty)
    network = _Untrained("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(empty))
    torch.save(network.state_dict(), path)
    return str(path)
