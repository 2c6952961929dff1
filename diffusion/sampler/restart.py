"""Restart: Heun's method, with a jump back to more noise and the way down again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.heun import trapezoid
from diffusion.schedule.base import Level
from diffusion.schedule.posterior import between
from diffusion.spacing.karras import KarrasSpacing
from diffusion.types import RandnLike, Spacing, combine


class RestartSampler(Sampler):
    """Where the way down passes ``low``, noise is added up to ``high`` and the ODE is solved down again, several times
    (Xu et al. 2023, Restart Sampling).

    Args:
        intervals: rows [steps, repeats, low, high] in sigma / alpha: Heun steps of one way down (evenly spaced in
            (sigma / alpha)^(1/7), EDM's spacing), how often, and the interval. No row leaves Heun's method.

    Raises:
        ValueError: a row that is not four numbers, 1 or more steps, 0 or more repeats, 0 < low < high.
    """

    order = 2
    spacing = KarrasSpacing()
    noiseless = "intervals=[]"

    def __init__(
        self,
        steps: int = 18,
        spacing: Spacing | None = None,
        intervals: Sequence[Sequence[float]] = ((3, 2, 0.06, 0.3),),
    ) -> None:
        super().__init__(steps, spacing)
        for row in intervals:
            if len(row) != 4 or row[0] < 1 or row[1] < 0 or not 0 < row[2] < row[3]:
                raise ValueError(
                    "a restart interval is [steps, repeats, low, high] with steps from 1, repeats from 0 and "
                    f"0 < low < high in sigma/alpha, got {list(row)}; set sampler.intervals"
                )
        self.intervals = [list(row) for row in intervals]
        self.invertible = not any(repeats for _, repeats, *_ in self.intervals)

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        x = trapezoid(denoise, x, cur, nxt)
        for steps, repeats, low, high in self.intervals:
            if not nxt.noise <= low < cur.noise or nxt.sigma == 0:
                continue
            down = [denoise.at(noise) for noise in _rungs(high, nxt.noise, int(steps))] + [nxt]
            if down[0].noise <= nxt.noise or down[0].alpha == 0:
                continue  # the schedule does not reach above this level
            up = between(down[0], nxt)
            for _ in range(int(repeats)):
                x = combine(down[0].alpha / nxt.alpha, x, math.sqrt(up.large), randn_like(x))
                for a, b in pairwise(down):
                    x = trapezoid(denoise, x, a, b)
        return x, None


def _rungs(high: float, low: float, steps: int) -> list[float]:
    """Noises from ``high`` down towards ``low``, which is left out."""
    a, b = high ** (1 / 7), low ** (1 / 7)
    return [(a + i / steps * (b - a)) ** 7 for i in range(steps)]
