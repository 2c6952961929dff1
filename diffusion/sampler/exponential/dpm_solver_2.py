"""DPM-Solver-2, single step."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level
from diffusion.types import RandnLike, combine


class DPMSolver2Sampler(Sampler):
    """The exponential midpoint rule on E[eps | x] in lam (Lu et al. 2022, DPM-Solver, Algorithm 1, r_1 = 1/2).

    Two calls a step, the second at the geometric mean of both levels' sigma / alpha. A step from alpha = 0 or to
    sigma = 0, which has no middle in lam, is a DDIM step.
    """

    order = 2
    invertible = True

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        first = denoise(x, cur.t)
        ddim = first.mix(nxt.alpha, nxt.sigma)
        if cur.alpha == 0 or nxt.sigma == 0:
            return ddim, None
        middle = denoise.at(math.sqrt(cur.noise * nxt.noise))
        second = denoise(combine(middle.alpha, first.x0, middle.sigma, first.eps), middle.t)
        gain = nxt.alpha * cur.noise - nxt.sigma  # sigma_s (e^h - 1)
        return ddim.add_(first.eps, alpha=gain).sub_(second.eps, alpha=gain), None
