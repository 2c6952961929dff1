"""DPM-Solver++ (2M): second order for one call a step."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import RandnLike, Spacing, combine

State = tuple[Level, Tensor]
"""The previous step's level and its E[x_0 | x]."""


class DPMSolverPP2MSampler(Sampler):
    """Two-step exponential integrator of E[x_0 | x] in lam (Lu et al. 2022b, DPM-Solver++, Algorithm 2).

        x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) D,   D = x_0 + h / (2 h_prev) (x_0 - x_0 one step back)

    with h = lam_s - lam_t. D = x_0 at the first step and where h or h_prev is infinite (alpha = 0, sigma = 0).
    """

    order = 2
    spacing = LogSNRSpacing()
    invertible = True

    def __init__(self, steps: int = 20, spacing: Spacing | None = None) -> None:
        super().__init__(steps, spacing)

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: State | None, randn_like: RandnLike
    ) -> tuple[Tensor, State]:
        prediction = denoise(x, cur.t)
        h = nxt.lam - cur.lam
        if state is None or math.isinf(h) or math.isinf(h_prev := cur.lam - state[0].lam):
            return prediction.mix(nxt.alpha, nxt.sigma), (cur, prediction.x0)
        gain = nxt.alpha * -math.expm1(-h)
        slope = gain * h / (2 * h_prev)
        mean = combine(nxt.sigma / cur.sigma, x, gain + slope, prediction.x0)
        return mean.sub_(state[1], alpha=slope), (cur, prediction.x0)
