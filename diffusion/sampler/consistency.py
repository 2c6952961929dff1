"""Multistep consistency sampling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level, Schedule
from diffusion.types import RandnLike, Spacing, combine


class ConsistencySampler(Sampler):
    """x_0 = jump(x_t, t, 0), then x_s = alpha(s) x_0 + sigma(s) noise (Song et al. 2023, algorithm 1).

    Args:
        times: the times that are visited, decreasing in (0, 1]; those of the spacing where ``None``.

    Raises:
        ValueError: times that do not decrease in (0, 1], or another number of steps than of times.
    """

    order = 1

    def __init__(self, steps: int = 2, spacing: Spacing | None = None, times: Sequence[float] | None = None) -> None:
        super().__init__(steps, spacing)
        if times is not None:
            falling = all(later < earlier for earlier, later in pairwise(times))
            if not times or not falling or not 0 < times[-1] <= times[0] <= 1:
                raise ValueError(f"times decrease in (0, 1], got {list(times)}; set sampler.times")
            if len(times) != steps:
                raise ValueError(f"{len(times)} times are {len(times)} steps, got sampler.steps={steps}")
        self.times = None if times is None else [float(t) for t in times]

    def levels(self, schedule: Schedule) -> list[Level]:
        if self.times is None:
            return super().levels(schedule)
        return [schedule.level(t) for t in (*self.times, 0.0)]

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        x0 = denoise.jump(x, cur.t, 0.0)
        return (combine(nxt.alpha, x0, nxt.sigma, randn_like(x)) if nxt.sigma > 0 else x0), None
