"""A distance that is quadratic at small differences and linear at large ones."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.objective.metric.base import Metric, difference


class PseudoHuberMetric(Metric):
    """sqrt(||a - b||^2 + c^2 d) - c sqrt(d) of the whole sample of d elements (Charbonnier et al. 1997; Song &
    Dhariwal 2024, section 3.3: c = 0.00054); the Euclidean distance where c is 0 (ECT).

    Args:
        c: the scale of one element.
        elementwise: the mean over the elements' own distances (LCM: c = 0.001) instead of that of the sample.

    Raises:
        ValueError: a negative scale.
    """

    def __init__(self, c: float = 0.00054, elementwise: bool = False) -> None:
        if not c >= 0:
            raise ValueError(f"the scale of a pseudo-Huber distance is at least 0, got {c}; set objective.metric.c")
        self.c = c
        self.elementwise = elementwise

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        apart = difference(a, b)
        if self.elementwise:
            return (apart.abs() if self.c == 0 else (apart.square() + self.c**2).sqrt() - self.c).mean(1)
        if self.c == 0:
            return torch.linalg.vector_norm(apart, dim=1)  # its gradient at 0 is 0; that of a root is not a number
        scale = self.c * apart.shape[1] ** 0.5
        return (apart.square().sum(1) + scale**2).sqrt() - scale
