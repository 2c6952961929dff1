"""Memorisation of training images: distances to the nearest one, compared with those of unseen real images.

A model that generalises is as far from its training set as real images outside it are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.nearest import nearest
from diffusion.evaluation.metrics.side import Side
from diffusion.files import replacing
from diffusion.pipeline.keyed import panels

__all__ = ["MemorisationMetric", "memorisation", "nearest", "save_pairs"]

CLOSE = 0.01
"""Share of unseen real images nearer to the training set than the threshold below which a sample is a copy."""


def memorisation(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """From the distances to the nearest training image, of samples (N,) and of held-out images (M,):

    ``nearest_ratio``: the median of ours over the median of theirs. ``copies``: share of samples that are nearer to a
    training image than all but 1 % of held-out images are.

    Real images give about 1 and 0.01; a model that copies gives 0 and 1.
    """
    threshold = torch.quantile(theirs, CLOSE)
    return {
        "nearest_ratio": float(ours.median() / theirs.median()),
        "copies": float((ours < threshold).float().mean()),
    }


class MemorisationMetric(Metric):
    """``nearest_ratio`` and ``copies``: see :func:`memorisation`."""

    better = {"copies": "lower"}  # noqa: RUF012 - read only; the ratio is best at 1
    held_out = True

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        if held_out is None:
            return {}
        return memorisation(*(side.to_nearest(layer, reference)[0] for side in (generated, held_out)))


def save_pairs(samples: Tensor, real: Tensor, path: Path) -> None:
    """An image of pairs, uint8 (K, C, H, W) each: samples above, the training images nearest to them below."""
    both = panels(torch.cat((samples, real))).float() / 255
    side = max(1, 64 // both.shape[-1])
    both = both.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    grid = make_grid(both, nrow=len(samples), padding=2, pad_value=1.0)
    with replacing(path) as beside:
        Image.fromarray((grid * 255).round().byte().permute(1, 2, 0).numpy()).save(beside, format="PNG")
