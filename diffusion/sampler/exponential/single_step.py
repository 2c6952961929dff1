"""Single-step exponential integrators: exponential Runge-Kutta in lam, one class and a tableau for each."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.exponential.base import moments
from diffusion.schedule.base import Level
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import RandnLike, Spacing

Tableau = tuple[tuple[float, float, int], ...]
"""Rows (r, c, k), one for each stage; r = 1 in the last, which is the step's result."""
MIDPOINT: Tableau = ((1 / 2, 0, 0), (1, 1, 0))
"""Order 2, r_1 = 1/2 (Lu et al. 2022, DPM-Solver, Algorithm 1)."""
THIRDS: Tableau = ((1 / 3, 0, 0), (2 / 3, 2, 1), (1, 3 / 2, 1))
"""Order 3, r_1 = 1/3 and r_2 = 2/3 (Lu et al. 2022, DPM-Solver, Algorithm 2)."""


class SingleStepSampler(Sampler):
    """With f = E[x_0 | x] or E[eps | x], m_k the integrals of :func:`diffusion.sampler.exponential.base.moments`, and
    x_r the state at lam_t + r h, h = lam_s - lam_t, each stage (r, c, k) is

        x_r = alpha_r x_0 + sigma_r eps + c alpha_r m_k(+r h) (f_newest - f_first)     f = E[x_0 | x]
        x_r = alpha_r x_0 + sigma_r eps + c sigma_r m_k(-r h) (f_newest - f_first)     f = E[eps | x]

    with x_0 and eps of the first call; as many calls a step as the order. A step from alpha = 0 or to sigma = 0, where
    h is infinite, is the DDIM step.

    answer: which of E[x_0 | x] and E[eps | x] is integrated. tableau: of the stages.
    """

    answer: ClassVar[Literal["x0", "eps"]]
    tableau: ClassVar[Tableau]
    spacing = LogSNRSpacing()
    invertible = True

    def __init__(self, steps: int = 10, spacing: Spacing | None = None) -> None:
        super().__init__(steps, spacing)

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        first = denoise(x, cur.t)
        if cur.alpha == 0 or nxt.sigma == 0:
            return first.mix(nxt.alpha, nxt.sigma), None
        h = nxt.lam - cur.lam
        start: Tensor = getattr(first, self.answer)
        newest = start
        for r, c, k in self.tableau:
            level = nxt if r == 1 else denoise.at(cur.noise * math.exp(-r * h))
            x = first.mix(level.alpha, level.sigma)
            if c:
                scale, sign = (level.alpha, 1) if self.answer == "x0" else (level.sigma, -1)
                weight = c * scale * moments(sign * r * h, k + 1)[k]
                x = x.add_(newest, alpha=weight).sub_(start, alpha=weight)
            if level is not nxt:
                newest = getattr(denoise(x, level.t), self.answer)
        return x, None
