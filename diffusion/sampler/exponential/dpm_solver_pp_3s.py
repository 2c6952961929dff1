"""DPM-Solver++ (3S), single step."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.exponential.base import moments
from diffusion.schedule.base import Level
from diffusion.types import RandnLike, combine


class DPMSolverPP3SSampler(Sampler):
    """Third-order exponential Runge-Kutta on E[x_0 | x] in lam: DPM-Solver-3's tableau (Lu et al. 2022, Algorithm 2)
    for the equation of DPM-Solver++ (Lu et al. 2022b, eq. 8).

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
        bend = 2 * two.alpha * moments(2 / 3 * h, 2)[1]  # the slope is known a half of the way to r_2
        x = combine(two.alpha, first.x0, two.sigma, first.eps).add_(second.x0, alpha=bend).sub_(first.x0, alpha=bend)
        third = denoise(x, two.t)
        bend = 1.5 * nxt.alpha * moments(h, 2)[1]
        return ddim.add_(third.x0, alpha=bend).sub_(first.x0, alpha=bend), None
