"""Churn: a little fresh noise before a step, which corrects what earlier steps did wrong (EDM, Algorithm 2)."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.ends import Prior, check_prior
from diffusion.schedule.base import Level
from diffusion.schedule.posterior import between
from diffusion.spacing.karras import KarrasSpacing
from diffusion.types import RandnLike, Spacing, combine


class ChurnedSampler(Sampler):
    """A sampler whose steps may begin with churn (Karras et al. 2022, Algorithm 2, lines 4-6).

    Args:
        churn: S_churn; sigma / alpha is raised by a share min(churn / steps, sqrt 2 - 1). 0 is deterministic.
        churn_min, churn_max: S_min and S_max, the range of sigma / alpha where it acts.
        churn_noise: S_noise, the standard deviation of the fresh noise.
        prior: the noise that sampling starts from: the schedule's, or of standard deviation sigma at the first level,
            alpha times less than it is there ("noise", as in k-diffusion and diffusers).

    Raises:
        ValueError: a negative churn or standard deviation, or a reversed range.
    """

    noiseless = "churn=0"
    spacing = KarrasSpacing()

    def __init__(
        self,
        steps: int = 50,
        spacing: Spacing | None = None,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_noise: float = 1.0,
        prior: Prior = "schedule",
    ) -> None:
        super().__init__(steps, spacing)
        check_prior(prior)
        self.prior = prior
        if not churn >= 0 or not churn_noise >= 0:
            raise ValueError(
                f"churn and churn_noise are at least 0, got {churn} and {churn_noise}; set sampler.churn=0 for none"
            )
        if not 0 <= churn_min < churn_max:
            raise ValueError(
                f"churn acts from churn_min up to churn_max in sigma/alpha, got {churn_min} to {churn_max}; "
                "set sampler.churn_min below sampler.churn_max"
            )
        self.churn = churn
        self.invertible = churn == 0
        self.churn_min = churn_min
        self.churn_max = churn_max
        self.churn_noise = churn_noise

    def add_churn(self, denoise: Denoise, x: Tensor, cur: Level, randn_like: RandnLike) -> tuple[Tensor, Level]:
        """x at ``cur`` -> x at a noisier level, and that level; both as they came where churn does not act."""
        gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
        if gamma == 0 or cur.alpha == 0 or not self.churn_min <= cur.noise <= self.churn_max:
            return x, cur
        raised = denoise.at(cur.noise * (1 + gamma))
        if raised.t <= cur.t:  # the schedule's noisy end
            return x, cur
        std = self.churn_noise * math.sqrt(between(raised, cur).large)
        return combine(raised.alpha / cur.alpha, x, std, randn_like(x)), raised
