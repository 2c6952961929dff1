"""DPM-Solver++ (2S), single step."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level
from diffusion.types import RandnLike, combine


class DPMSolverPP2SSampler(Sampler):
    """The exponential midpoint rule on E[x_0 | x] in lam (Lu et al. 2022b, DPM-Solver++, Algorithm 1, r = 1/2).

    Two calls a step, the second at the geometric mean of both levels' sigma / alpha. A step from alpha = 0 or to
    sigma = 0, which has no middle in lam, is a DDIM step.
    """

    order = 2
    invertible = True

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        first = denoise(x, cur.t)
        if cur.alpha == 0 or nxt.sigma == 0:
            return first.mix(nxt.alpha, nxt.sigma), None
        middle = denoise.at(math.sqrt(cur.noise * nxt.noise))
        second = denoise(combine(middle.alpha, first.x0, middle.sigma, first.eps), middle.t)
        gain = nxt.alpha - cur.alpha * nxt.sigma / cur.sigma  # alpha_s (1 - e^-h)
        return combine(nxt.sigma / cur.sigma, x, gain, second.x0), None
