"""Even strides through the table from clean data up, what diffusers calls leading."""

from __future__ import annotations

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing, from_indices


class UniformSpacing(Spacing):
    """Indices offset + i (T // steps), i = 0 .. steps - 1 (Song et al. 2021, appendix D.3, "linear").

    The noisiest index is below T - 1: sampling starts where a little of the data is left.

    Args:
        offset: added to every index; Stable Diffusion uses 1.
    """

    def __init__(self, offset: int = 0) -> None:
        if offset < 0:
            raise ValueError(f"offset is at least 0, got {offset}; set spacing.offset")
        self.offset = offset

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        stride = (schedule.steps or steps) // steps
        return from_indices(schedule, (self.offset + i * stride for i in range(steps)))
