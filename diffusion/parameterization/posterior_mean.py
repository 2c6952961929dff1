"""The mean of DDPM's reverse step as target."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.parameterization.base import Coefficient, Parameterization
from diffusion.schedule.base import Schedule
from diffusion.schedule.posterior import Posterior, posterior


class PosteriorMeanParameterization(Parameterization):
    """target = mu~, the mean of q(x_{t - 1/T} | x_t, x_0) (Ho et al. 2020, eq. 7, and table 2's "mu~ prediction").

    The network predicts the step to the next knot of its table, whatever steps a sampler takes: its answer is
    solved for x_0 and eps as any other. Below the first knot the step goes to clean data.

    Raises:
        ValueError: the schedule has no table.
    """

    def __init__(self, schedule: Schedule, learned_variance: bool = False) -> None:
        if schedule.steps is None:
            raise ValueError(
                "the posterior mean is that of one step of a beta table, and this schedule is continuous; "
                "use schedule=linear or cosine, or parameterization=x0"
            )
        self.schedule = schedule
        self.learned_variance = learned_variance

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        mean = self._posterior(alpha, sigma)
        return mean.x0 + mean.x * alpha, mean.x * sigma

    def determinant(self, alpha: Coefficient, sigma: Coefficient) -> Coefficient:
        return -sigma * self._posterior(alpha, sigma).x0

    def _posterior(self, alpha: Coefficient, sigma: Coefficient) -> Posterior:
        T = self.schedule.steps or 1
        if isinstance(alpha, Tensor) and isinstance(sigma, Tensor):
            s = (self.schedule.times(sigma / alpha) - 1 / T).clamp(min=0)
            return posterior(alpha, sigma, self.schedule.alpha(s), self.schedule.sigma(s))
        level = self.schedule.level(
            max(self.schedule.time(float(sigma / alpha) if alpha > 0 else math.inf) - 1 / T, 0.0)
        )
        return posterior(alpha, sigma, level.alpha, level.sigma)
