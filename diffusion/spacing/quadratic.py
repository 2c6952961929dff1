"""DDIM's quadratic spacing, the one of its CIFAR-10 table."""

from __future__ import annotations

import math

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing, from_indices


class QuadraticSpacing(Spacing):
    """Indices floor(linspace(0, sqrt(share T), steps)^2) (Song et al. 2021, appendix D.3, and the authors' code).

    Denser near the data. Where neighbours fall on one index the repeat is dropped, as it moves nothing.

    Args:
        share: the part of the table that is used, 0.8 in DDIM: sampling starts at index 0.8 T.
    """

    def __init__(self, share: float = 0.8) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share lies in (0, 1), got {share}; set spacing.share")
        self.share = share

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        end, gaps = math.sqrt(self.share * (schedule.steps or 0)), max(steps - 1, 1)
        return from_indices(schedule, (int((end * i / gaps) ** 2) for i in range(steps)))
