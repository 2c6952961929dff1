"""DEIS: exponential Adams-Bashforth on the noise."""

from __future__ import annotations

import math

from diffusion.sampler.exponential.base import weights
from diffusion.sampler.multistep import MultistepSampler
from diffusion.schedule.base import Level
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import Spacing


class DEISSampler(MultistepSampler):
    """Polynomial extrapolation of E[eps | x] in log(sigma / alpha), integrated exactly (Zhang & Chen 2023).

    Args:
        order: number of answers that the polynomial goes through, 1 to 4; 1 is DDIM.

    Raises:
        ValueError: another order.
    """

    answer = "eps"

    invertible = True
    spacing = LogSNRSpacing()

    def __init__(self, steps: int = 10, spacing: Spacing | None = None, order: int = 3) -> None:
        super().__init__(steps, spacing)
        if order not in (1, 2, 3, 4):
            raise ValueError(f"DEIS has orders 1 to 4, got {order}; set sampler.order")
        self.order = order

    def differences(self, nxt: Level, past: list[Level]) -> list[float]:
        h = nxt.lam - past[0].lam
        if math.isinf(h):
            return [0.0] * (len(past) - 1)
        return [nxt.sigma * w for w in weights(-h, [(level.lam - past[0].lam) / h for level in past])[1:]]
