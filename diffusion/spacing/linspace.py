"""Even times with both ends of the schedule among them."""

from __future__ import annotations

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing


class LinspaceSpacing(Spacing):
    """``steps`` even times from 1 to the cleanest, then 0: index T - 1 to 0 of a table, rounded to its knots.

    Song et al. 2021 (score SDE, appendix C) discretise a continuous schedule so.

    Args:
        end: the cleanest time of a continuous schedule before 0.
    """

    def __init__(self, end: float = 1e-3) -> None:
        if not 0 < end < 1:
            raise ValueError(f"end is a time between 0 and 1, got {end}; set spacing.end")
        self.end = end

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        gaps = max(steps - 1, 1)
        if (T := schedule.steps) is None:
            return [1 - (1 - self.end) * i / gaps for i in range(steps)] + [0.0]
        return [(round((T - 1) * (gaps - i) / gaps) + 1) / T for i in range(steps)] + [0.0]
