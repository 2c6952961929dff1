"""Heun's method, EDM's sampler."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise
from diffusion.sampler.churn import ChurnedSampler
from diffusion.sampler.ends import Prior
from diffusion.schedule.base import Level
from diffusion.types import RandnLike, Spacing


class HeunSampler(ChurnedSampler):
    """The trapezoidal rule on dy/dn = E[eps | x], y = x / alpha, n = sigma / alpha (Karras et al. 2022, Algorithm 2).

    Two calls a step. A step from alpha = 0 or to sigma = 0, where n or E[eps | x] has no value, is an Euler step; one
    such step at each end leaves the order as it is.
    """

    order = 2

    def __init__(
        self,
        steps: int = 18,
        spacing: Spacing | None = None,
        churn: float = 0.0,
        churn_min: float = 0.0,
        churn_max: float = math.inf,
        churn_noise: float = 1.0,
        prior: Prior = "schedule",
    ) -> None:
        super().__init__(steps, spacing, churn, churn_min, churn_max, churn_noise, prior)

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        x, cur = self.add_churn(denoise, x, cur, randn_like)
        return trapezoid(denoise, x, cur, nxt), None


def trapezoid(denoise: Denoise, x: Tensor, cur: Level, nxt: Level) -> Tensor:
    """Heun's step without churn."""
    first = denoise(x, cur.t)
    euler = first.mix(nxt.alpha, nxt.sigma)
    if cur.alpha == 0 or nxt.sigma == 0:
        return euler
    second = denoise(euler, nxt.t)
    half = 0.5 * nxt.alpha * (nxt.noise - cur.noise)
    return euler.add(second.eps, alpha=half).sub_(first.eps, alpha=half)
