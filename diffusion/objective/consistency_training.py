"""Consistency training: neighbours on a path share their data and their noise."""

from __future__ import annotations

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.consistency import ConsistencyObjective, Path, Weight
from diffusion.objective.metric.base import Metric
from diffusion.objective.pairs.base import Pairs
from diffusion.randomness import Randomness
from diffusion.types import Cond, combine


class ConsistencyTrainingObjective(ConsistencyObjective):
    """Consistency with x_s = alpha_s x_0 + sigma_s eps of the data and noise of x_t, without a teacher (Song et al.
    2023, algorithm 3; improved by Song & Dhariwal 2024; tuned from a diffusion model by Geng et al. 2025, ECT).

    Given x_t, the mean of x_s is Euler's step: on a grid its minimum is that of distillation by Euler.

    Args:
        pairs, metric, weight, rate: see :class:`ConsistencyObjective`.
    """

    def __init__(self, pairs: Pairs, metric: Metric, weight: Weight = "inverse_step", rate: float = 0.0) -> None:
        super().__init__(pairs, metric, weight, rate)

    def earlier(self, denoiser: NetworkDenoiser, path: Path, cond: Cond, randomness: Randomness) -> tuple[Tensor, Cond]:
        alpha, sigma = denoiser.schedule.coefficients(path.s)
        return combine(alpha, path.x0, sigma, path.eps), cond
