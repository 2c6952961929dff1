"""Align Your Steps: optimised tables."""

from __future__ import annotations

import math
from typing import Literal, get_args

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing, from_noises, noise_range

Table = Literal["stable_diffusion", "sdxl", "video"]

_SIGMAS = {
    "stable_diffusion": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "video": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


class AlignYourStepsSpacing(Spacing):
    """Ten steps found by minimising a bound on the solver's error (Sabour et al. 2024); sigma / alpha from the authors'
    page (research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html), other numbers of steps by their rule, linear
    in the logarithm between entries.

    Args:
        table: ``stable_diffusion`` (1.5), ``sdxl`` or ``video`` (Stable Video Diffusion): which model it was found for.
    """

    def __init__(self, table: Table = "stable_diffusion") -> None:
        if table not in get_args(Table):
            raise ValueError(f"table is one of {', '.join(get_args(Table))}, got {table!r}; set spacing.table")
        self.table = table

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        logs = [math.log(sigma) for sigma in _SIGMAS[self.table]]
        low, high = noise_range(schedule, math.exp(logs[-1]), math.exp(logs[0]))
        noises = []
        for i in range(steps):  # the last entry of the table is where the authors put 0
            at = i / steps * (len(logs) - 1)
            below = int(at)
            noises.append(math.exp(logs[below] + (at - below) * (logs[below + 1] - logs[below])))
        inside = [noise for noise in noises if low <= noise <= high]
        if len(inside) < steps - 1:
            raise ValueError(
                f"the table '{self.table}' runs from {noises[0]:.3g} in sigma/alpha and this schedule reaches "
                f"{low:.3g} to {high:.3g} of it; choose another spacing.table or spacing=karras"
            )
        return from_noises(schedule, inside if len(inside) == steps else [high, *inside])
