"""DPM-Solver++ (3M): third order for one call a step."""

from __future__ import annotations

import math

from diffusion.sampler.exponential.base import weights
from diffusion.sampler.multistep import MultistepSampler
from diffusion.schedule.base import Level
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import Spacing


class DPMSolverPP3MSampler(MultistepSampler):
    """Three-step exponential integrator of E[x_0 | x] in lam (after Lu et al. 2022b, DPM-Solver++).

    The quadratic through three answers is integrated exactly, which is order 3. The authors' code, and what follows
    it, halves the quadratic's leading term: that is order 2.
    """

    order = 3
    spacing = LogSNRSpacing()
    invertible = True
    answer = "x0"

    def __init__(self, steps: int = 20, spacing: Spacing | None = None) -> None:
        super().__init__(steps, spacing)

    def differences(self, nxt: Level, past: list[Level]) -> list[float]:
        h = nxt.lam - past[0].lam
        if math.isinf(h):
            return [0.0] * (len(past) - 1)
        return [nxt.alpha * w for w in weights(h, [(level.lam - past[0].lam) / h for level in past])[1:]]
