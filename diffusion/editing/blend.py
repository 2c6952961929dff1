"""A blend of several images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.editing.base import Edit, Subject


class BlendEdit(Edit):
    """Samples from the mean of the noises that the images are inverted to, of the length that they have on average.

    Two images of equal weight meet halfway on the great circle between their noises.

    Args:
        weights: of the images, in their order; equal where ``None``. Their scale does not matter.
        source: what the images show, a text or a class; the null condition where ``None``.
    """

    inverts = True
    images = None

    def __init__(self, weights: list[float] | None = None, source: str | int | None = None) -> None:
        if weights is not None and not (all(w >= 0 and math.isfinite(w) for w in weights) and sum(weights) > 0):
            raise ValueError(f"weights are numbers from 0, one of them above 0, got {weights}; set edit.weights")
        self.weights, self.source = weights, source

    def __call__(self, subject: Subject) -> Tensor:
        """Raises:
        ValueError: not as many weights as images.
        """
        count = len(subject.images)
        weights = [1.0] * count if self.weights is None else self.weights
        if len(weights) != count:
            raise ValueError(f"edit.weights has {len(weights)} weights for {count} images; set one for each")
        shares = torch.tensor(weights, device=subject.x0.device, dtype=subject.x0.dtype) / sum(weights)
        noises = torch.stack([own.invert(own.x0) for own in map(subject.of, range(count))])
        mean = torch.tensordot(shares, noises, 1)
        length = torch.tensordot(shares, noises.flatten(2).norm(dim=2), 1)
        scale = (length / mean.flatten(1).norm(dim=1).clamp_min(1e-12)).reshape(-1, *[1] * (mean.ndim - 1))
        return subject.again(mean * scale)
