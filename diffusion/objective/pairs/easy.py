"""Pairs that begin as diffusion and draw together."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Step
from diffusion.objective.pairs.base import Pairs, done
from diffusion.randomness import Randomness
from diffusion.schedule.base import FIRST, Schedule


class EasyPairs(Pairs):
    """ln n ~ N(mean, std^2) and r = n (1 - q^-(stage + 1) (1 + k sigmoid(-b n))) in n = sigma / alpha, the data
    themselves where that is no noise of the schedule (Geng et al. 2025, ECT, section 3): diffusion at first, at small
    noises, and a consistency model in the limit.

    Args:
        mean, std: of the logarithm of n.
        shrink: q, by which 1 - r / n shrinks from stage to stage.
        k, b: the map's constants.
        stages: of equal length, into which the training is divided.

    Raises:
        ValueError: no spread, a q of at most 1, a negative constant or no stage.
    """

    def __init__(
        self,
        mean: float = -1.1,
        std: float = 2.0,
        shrink: float = 2.0,
        k: float = 8.0,
        b: float = 1.0,
        stages: int = 8,
    ) -> None:
        if not std > 0:
            raise ValueError(f"the spread of log noise is above 0, got {std}; set objective.pairs.std")
        if not (shrink > 1 and k >= 0 and b >= 0):
            raise ValueError(
                f"a map of noises takes shrink > 1, k >= 0 and b >= 0, got {shrink}, {k} and {b}; "
                "set objective.pairs.shrink, objective.pairs.k and objective.pairs.b"
            )
        if isinstance(stages, bool) or not isinstance(stages, int) or stages < 1:
            raise ValueError(f"a training has at least 1 stage, got {stages!r}; set objective.pairs.stages")
        self.mean, self.std, self.shrink, self.k, self.b, self.stages = mean, std, shrink, k, b, stages

    def __call__(
        self, denoiser: NetworkDenoiser, randomness: Randomness, step: Step | None = None
    ) -> tuple[Tensor, Tensor]:
        schedule = denoiser.schedule
        t = schedule.times((self.mean + self.std * torch.special.ndtri(randomness.rand())).exp())
        return t, self.below(schedule, t, self.stage(step))

    def stage(self, step: Step | None) -> int:
        """From 0; the last one outside of a training."""
        return min(int(done(step) * self.stages), self.stages - 1)

    def below(self, schedule: Schedule, t: Tensor, stage: int) -> Tensor:
        """s (B,) of t (B,), float64."""
        alpha, sigma = schedule.coefficients(t)
        n = sigma / alpha
        r = n * (1 - self.shrink ** -(stage + 1) * (1 + self.k * torch.sigmoid(-self.b * n)))
        cleanest = schedule.level(FIRST).noise
        return torch.where(r > cleanest, schedule.times(r.clamp(min=cleanest)), 0.0)
