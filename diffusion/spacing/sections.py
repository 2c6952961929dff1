"""ADM's sections: a number of steps for each equal part of the table."""

from __future__ import annotations

from collections.abc import Sequence

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing, from_indices


class SectionsSpacing(Spacing):
    """The table in as many parts of equal length as there are counts, each with its count of even strides (Nichol &
    Dhariwal 2021 and Dhariwal & Nichol 2021, whose LSUN samples took "90,60,60,20,20").

    Args:
        counts: "90,60,60,20,20" or a list, the part nearest to the data first; their sum is ``sampler.steps``.

    Raises:
        ValueError: counts that are no whole numbers from 1, a sum that is not the sampler's steps, or a part that has
            fewer indices than its count.
    """

    def __init__(self, counts: str | Sequence[int]) -> None:
        parts = counts.split(",") if isinstance(counts, str) else [str(count) for count in counts]
        if not parts or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
            raise ValueError(f"counts are whole numbers from 1, like '90,60,60,20,20', got {counts!r}")
        self.counts = [int(part) for part in parts]

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        if steps != sum(self.counts):
            raise ValueError(
                f"spacing.counts adds up to {sum(self.counts)} and the sampler takes {steps} steps; "
                f"set sampler.steps={sum(self.counts)}"
            )
        if schedule.steps is None:
            return from_indices(schedule, ())  # raises the reason
        size, larger = divmod(schedule.steps, len(self.counts))
        indices, first = [], 0
        for i, count in enumerate(self.counts):
            length = size + (i < larger)
            if length < count:
                raise ValueError(
                    f"part {i + 1} of spacing.counts has {count} steps for {length} indices; "
                    f"a table of {schedule.steps} in {len(self.counts)} parts gives no more"
                )
            stride = (length - 1) / (count - 1) if count > 1 else 1.0
            indices += [first + round(k * stride) for k in range(count)]
            first += length
        return from_indices(schedule, indices)
