"""Times given one by one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing, from_indices


class IndicesSpacing(Spacing):
    """DDPM's 0-based indices as listed, noisiest first.

    Args:
        indices: strictly decreasing, as many as ``sampler.steps``.
    """

    def __init__(self, indices: Sequence[int]) -> None:
        if not indices or not all(later < earlier for earlier, later in pairwise(indices)):
            raise ValueError(f"indices decrease strictly, noisiest first, got {list(indices)}; set spacing.indices")
        self.indices = list(indices)

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        if steps != len(self.indices):
            raise ValueError(
                f"spacing.indices lists {len(self.indices)} and the sampler takes {steps} steps; "
                f"set sampler.steps={len(self.indices)}"
            )
        return from_indices(schedule, self.indices)
