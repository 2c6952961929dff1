"""DDPM's own sampler."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level
from diffusion.schedule.posterior import between
from diffusion.types import RandnLike, Spacing, combine

Variance = Literal["small", "large", "learned"]


class AncestralSampler(Sampler):
    """Each step draws from q(x_s | x_t, x_0 = E[x_0 | x_t]) (Ho et al. 2020, Algorithm 2 and eq. 7).

    The step to clean data adds no noise. Weak order 1.

    Args:
        variance: ``small`` is beta~ (exact for data at one point), ``large`` is beta (exact for standard normal data),
            ``learned`` the mixture of the two that the network predicts (Nichol & Dhariwal 2021, eq. 15).

    Raises:
        ValueError: an unknown variance, or a learned one of a model that predicts none.
    """

    order = 1

    def __init__(self, steps: int = 100, spacing: Spacing | None = None, variance: Variance = "small") -> None:
        super().__init__(steps, spacing)
        if variance not in get_args(Variance):
            raise ValueError(f"variance is one of small, large and learned, got {variance!r}; set sampler.variance")
        self.variance = variance

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        prediction = denoise(x, cur.t)
        if self.variance == "learned" and prediction.var_mix is None:
            raise ValueError(
                "variance=learned needs a model that predicts a variance, and this one does not; "
                "set sampler.variance=small or large, or train with parameterization.learned_variance=true"
            )
        q = between(cur, nxt)
        mean = combine(q.x0, prediction.x0, q.x, x)
        if nxt.sigma == 0:
            return mean, None
        noise = randn_like(x)
        if self.variance == "learned":
            std = q.log_variance(prediction.var_mix).mul_(0.5).exp_()  # type: ignore[arg-type]
            return mean.addcmul_(std, noise), None
        return mean.add_(noise, alpha=math.sqrt(q.small if self.variance == "small" else q.large)), None
