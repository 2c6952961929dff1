"""Neighbours on a grid that grows as the root of the steps taken."""

from __future__ import annotations

import math

from diffusion.objective.base import Step
from diffusion.objective.pairs.base import GridPairs, done
from diffusion.types import Spacing


class CurriculumPairs(GridPairs):
    """Neighbours on a grid of N(k) = ceil(sqrt(k / K ((s_1 + 1)^2 - s_0^2) + s_0^2) - 1) + 1 points at step k of K
    (Song et al. 2023, appendix C; their code draws as the paper says).

    Args:
        spacing: see :class:`GridPairs`.
        first: s_0, points at the first step.
        last: s_1, pairs at the last one.

    Raises:
        ValueError: not 2 <= first <= last + 1.
    """

    def __init__(self, spacing: Spacing, first: int = 2, last: int = 150) -> None:
        check_growth(first, last)
        super().__init__(spacing)
        self.first, self.last = first, last

    def points(self, step: Step | None = None) -> int:
        low, high = self.first**2, (self.last + 1) ** 2
        return math.ceil(math.sqrt(done(step) * (high - low) + low) - 1) + 1


def check_growth(first: int, last: int) -> None:
    """Raises:
    ValueError: not whole numbers with 2 <= first <= last.
    """
    whole = all(isinstance(count, int) and not isinstance(count, bool) for count in (first, last))
    if not whole or not 2 <= first <= last:
        raise ValueError(
            f"a growing grid takes whole numbers 2 <= first <= last, got {first!r} and {last!r}; "
            "set objective.pairs.first and objective.pairs.last"
        )
