"""DPM-Solver-3, single step."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level
from diffusion.types import RandnLike, combine


class DPMSolver3Sampler(Sampler):
    """Third-order exponential Runge-Kutta on E[eps | x] in lam (Lu et al. 2022, DPM-Solver, Algorithm 2).

    Three calls a step, at thirds of the way in lam (r_1 = 1/3, r_2 = 2/3). A step from alpha = 0 or to sigma = 0 is a
    DDIM step.
    """

    order = 3
    invertible = True

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        first = denoise(x, cur.t)
        ddim = first.mix(nxt.alpha, nxt.sigma)
        if cur.alpha == 0 or nxt.sigma == 0:
            return ddim, None
        h = nxt.lam - cur.lam
        one, two = (denoise.at(cur.noise * math.exp(-r * h)) for r in (1 / 3, 2 / 3))
        second = denoise(combine(one.alpha, first.x0, one.sigma, first.eps), one.t)
        bend = 2 * two.sigma * _phi(2 / 3 * h)  # sigma r_2 / r_1 ((e^{r_2 h} - 1) / (r_2 h) - 1)
        x = combine(two.alpha, first.x0, two.sigma, first.eps).sub_(second.eps, alpha=bend).add_(first.eps, alpha=bend)
        third = denoise(x, two.t)
        bend = 1.5 * nxt.sigma * _phi(h)  # sigma / r_2 ((e^h - 1) / h - 1)
        return ddim.sub_(third.eps, alpha=bend).add_(first.eps, alpha=bend), None


def _phi(h: float) -> float:
    """(e^h - 1) / h - 1, without cancellation at small h."""
    return math.expm1(h) / h - 1 if abs(h) > 1e-3 else h / 2 + h * h / 6 + h**3 / 24
