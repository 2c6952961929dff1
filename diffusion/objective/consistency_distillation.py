"""Consistency distillation: neighbours on a path are a step of a teacher's solver apart."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.objective.consistency import ConsistencyObjective, Path, Weight
from diffusion.objective.metric.base import Metric
from diffusion.objective.pairs.base import Pairs
from diffusion.objective.solve.base import Solve
from diffusion.objective.teaching import TaughtObjective, TeacherDenoiser, told
from diffusion.randomness import Randomness
from diffusion.types import Cond


class ConsistencyDistillationObjective(ConsistencyObjective, TaughtObjective):
    """Consistency with x_s a solver's step of a teacher from x_t (Song et al. 2023, algorithm 2; of a guided teacher
    with the scale told, Luo et al. 2023, LCM, algorithm 1).

    Args:
        teacher, scales: see :class:`diffusion.objective.teaching.TaughtObjective`.
        pairs, metric, weight, rate: see :class:`ConsistencyObjective`.
        solve: one step of a solver.
    """

    def __init__(
        self,
        teacher: DiffusionModel,
        pairs: Pairs,
        solve: Solve,
        metric: Metric,
        weight: Weight = "constant",
        rate: float = 0.95,
        scales: Sequence[float] | None = None,
    ) -> None:
        TaughtObjective.__init__(self, teacher, scales)
        ConsistencyObjective.__init__(self, pairs, metric, weight, rate)
        self.solve = solve

    def check(self, denoiser: NetworkDenoiser) -> None:
        ConsistencyObjective.check(self, denoiser)
        TaughtObjective.check(self, denoiser)

    def earlier(self, denoiser: NetworkDenoiser, path: Path, cond: Cond, randomness: Randomness) -> tuple[Tensor, Cond]:
        scale = self.scale(randomness, path.x)
        teacher = TeacherDenoiser(self.teacher, denoiser.schedule, scale)
        return self.solve(teacher, path.x, path.t, path.s, cond), told(denoiser, cond, scale)
