"""Consistency in continuous time along a teacher's ODE."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.objective.base import TimeDistribution
from diffusion.objective.continuous_consistency import ContinuousConsistencyObjective
from diffusion.objective.teaching import TaughtObjective, TeacherDenoiser, told
from diffusion.randomness import Randomness
from diffusion.types import Cond, Prediction


class ContinuousDistillationObjective(ContinuousConsistencyObjective, TaughtObjective):
    """Continuous consistency with the data and noise that the teacher expects, along its ODE (Lu & Song 2025,
    algorithm 1, sCD), guided where ``scales`` are given.

    Args:
        teacher, scales: see :class:`diffusion.objective.teaching.TaughtObjective`.
        time_distribution, sigma_data, warmup, normalization, adaptive: see :class:`ContinuousConsistencyObjective`.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        time_distribution: TimeDistribution,
        scales: Sequence[float] | None = None,
        sigma_data: float = 0.5,
        warmup: int = 10_000,
        normalization: float | None = 0.1,
        adaptive: bool = True,
    ) -> None:
        TaughtObjective.__init__(self, teacher, scales)
        ContinuousConsistencyObjective.__init__(self, time_distribution, sigma_data, warmup, normalization, adaptive)

    def check(self, denoiser: NetworkDenoiser) -> None:
        ContinuousConsistencyObjective.check(self, denoiser)
        TaughtObjective.check(self, denoiser)

    def direction(
        self,
        denoiser: NetworkDenoiser,
        x: Tensor,
        t: Tensor,
        x0: Tensor,
        eps: Tensor,
        cond: Cond,
        randomness: Randomness,
    ) -> tuple[Prediction, Cond]:
        scale = self.scale(randomness, x)
        teacher = TeacherDenoiser(self.teacher, denoiser.schedule, scale)
        return teacher(x, t, cond), told(denoiser, cond, scale)
