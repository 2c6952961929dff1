"""The mean squared difference."""

from __future__ import annotations

from torch import Tensor

from diffusion.objective.metric.base import Metric, difference


class SquaredMetric(Metric):
    """||a - b||^2 / d over the d elements of a sample."""

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return difference(a, b).square().mean(1)
