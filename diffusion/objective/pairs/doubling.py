"""Neighbours on a grid that doubles, drawn log-normally."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.objective.base import Step
from diffusion.objective.pairs.base import GridPairs, done
from diffusion.objective.pairs.curriculum import check_growth
from diffusion.types import Spacing


class DoublingPairs(GridPairs):
    """Neighbours on a grid of N(k) = min(s_0 2^floor(k / K'), s_1) + 1 points, K' = floor(K / (log2(s_1 / s_0) + 1)),
    the pair (n_{i+1}, n_i) with the probability that a log-normal noise falls between them (Song & Dhariwal 2024,
    table 1):  p_i proportional to erf((ln n_{i+1} - mean) / (sqrt(2) std)) - erf((ln n_i - mean) / (sqrt(2) std)).

    Args:
        spacing: see :class:`GridPairs`.
        first, last: s_0 and s_1, pairs at the first and at the last step.
        mean, std: of the logarithm of sigma / alpha.

    Raises:
        ValueError: not 2 <= first <= last, or no spread.
    """

    def __init__(
        self, spacing: Spacing, first: int = 10, last: int = 1280, mean: float = -1.1, std: float = 2.0
    ) -> None:
        check_growth(first, last)
        if not std > 0:
            raise ValueError(f"the spread of log noise is above 0, got {std}; set objective.pairs.std")
        super().__init__(spacing)
        self.first, self.last, self.mean, self.std = first, last, mean, std

    def points(self, step: Step | None = None) -> int:
        share = done(step)
        if step is None or step.total is None or share >= 1:
            return self.last + 1
        stages = math.floor(math.log2(self.last // self.first)) + 1
        each = max(step.total // stages, 1)
        return min(self.first * 2 ** min(step.number // each, 60), self.last) + 1

    def weights(self, noises: Tensor) -> Tensor:
        below = torch.special.erf((noises.log() - self.mean) / (math.sqrt(2) * self.std))
        return below.diff()
