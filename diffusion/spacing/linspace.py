"""Even times with both ends of the schedule among them."""

from __future__ import annotations

from math import floor

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing, from_noises


class LinspaceSpacing(Spacing):
    """``steps`` even times from 1 to the cleanest, then 0: index T - 1 to 0 of a table, rounded to its knots.

    Song et al. 2021 (score SDE, appendix C) discretise a continuous schedule so.

    Args:
        end: the cleanest time of a continuous schedule before 0.
        rounded: to the knots of a table. Else sigma / alpha is interpolated between them, linearly in the index, as in
            k-diffusion.
    """

    def __init__(self, end: float = 1e-3, rounded: bool = True) -> None:
        if not 0 < end < 1:
            raise ValueError(f"end is a time between 0 and 1, got {end}; set spacing.end")
        self.end, self.rounded = end, rounded

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        gaps = max(steps - 1, 1)
        if (T := schedule.steps) is None:
            return [1 - (1 - self.end) * i / gaps for i in range(steps)] + [0.0]
        indices = [(T - 1) * (gaps - i) / gaps for i in range(steps)]
        if self.rounded:
            return [(round(index) + 1) / T for index in indices] + [0.0]
        return from_noises(schedule, [_interpolated(schedule, T, index) for index in indices])


def _interpolated(schedule: Schedule, T: int, index: float) -> float:
    """sigma / alpha at a fractional index."""
    below = floor(index)
    left, right = (schedule.level(min(i + 1, T) / T).noise for i in (below, below + 1))
    return left + (index - below) * (right - left)
