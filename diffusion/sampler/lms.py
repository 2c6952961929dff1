"""Linear multistep: Adams-Bashforth in sigma / alpha."""

from __future__ import annotations

from diffusion.sampler.exponential.base import lagrange
from diffusion.sampler.multistep import MultistepSampler
from diffusion.schedule.base import Level
from diffusion.spacing.karras import KarrasSpacing
from diffusion.types import Spacing


class LMSSampler(MultistepSampler):
    """dy/dn = E[eps | x] by Adams-Bashforth on uneven steps, y = x / alpha, n = sigma / alpha.

    Known from Katherine Crowson's k-diffusion; the same as DEIS with its polynomial in sigma / alpha ("rho AB", Zhang &
    Chen 2023, appendix), which unlike the logarithm reaches clean data.

    Args:
        order: number of answers that the polynomial goes through, 1 to 4; 1 is Euler.

    Raises:
        ValueError: another order.
    """

    answer = "eps"

    invertible = True
    spacing = KarrasSpacing()

    def __init__(self, steps: int = 20, spacing: Spacing | None = None, order: int = 4) -> None:
        super().__init__(steps, spacing)
        if order not in (1, 2, 3, 4):
            raise ValueError(f"LMS has orders 1 to 4, got {order}; set sampler.order")
        self.order = order

    def differences(self, nxt: Level, past: list[Level]) -> list[float]:
        span = nxt.noise - past[0].noise
        bases = lagrange([(level.noise - past[0].noise) / span for level in past])
        return [nxt.alpha * span * sum(c / (k + 1) for k, c in enumerate(basis)) for basis in bases[1:]]
