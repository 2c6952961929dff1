"""Even strides through time from pure noise down."""

from __future__ import annotations

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing


class TrailingSpacing(Spacing):
    """t = 1, 1 - 1/steps, ..., rounded to the table's knots where there is one (Lin et al. 2024, Table 2).

    The first time is always 1, which zero terminal SNR needs.
    """

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        grid = schedule.steps or steps
        return [round(grid * (steps - i) / steps) / grid for i in range(steps + 1)]
