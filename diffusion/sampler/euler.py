"""Euler on the probability-flow ODE in sigma / alpha, with churn."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise
from diffusion.sampler.churn import ChurnedSampler
from diffusion.schedule.base import Level
from diffusion.types import RandnLike


class EulerSampler(ChurnedSampler):
    """dy/dn = E[eps | x] by Euler, y = x / alpha, n = sigma / alpha (Karras et al. 2022, Algorithm 2, lines 4-8).

    Without churn it is DDIM at eta 0.
    """

    order = 1

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        x, cur = self.add_churn(denoise, x, cur, randn_like)
        prediction = denoise(x, cur.t)
        return prediction.mix(nxt.alpha, nxt.sigma), None
