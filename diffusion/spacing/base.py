"""Spacings: which times a sampler visits. The solver does not know how they were chosen.

Times are floats in [0, 1], decreasing, the last 0. For a table of T betas, DDPM's index i stands at t = (i + 1) / T.
"""

from __future__ import annotations

from collections.abc import Iterable

from diffusion.schedule.base import Schedule
from diffusion.types import Spacing

__all__ = ["Spacing", "from_indices"]


def from_indices(schedule: Schedule, indices: Iterable[int]) -> list[float]:
    """DDPM's 0-based indices, in any order, repeats dropped (a repeated step is a no-op that costs a call) -> times.

    Raises:
        ValueError: the schedule has no table, or an index lies outside it.
    """
    T = schedule.steps
    if T is None:
        raise ValueError(
            "this spacing counts in the indices of a beta table, and the schedule is continuous; "
            "use spacing=linspace, spacing=karras or spacing=log_snr"
        )
    distinct = sorted(set(indices), reverse=True)
    if not distinct or distinct[0] >= T or distinct[-1] < 0:
        raise ValueError(f"indices of a table of {T} lie in 0..{T - 1}, got {distinct}")
    return [(i + 1) / T for i in distinct] + [0.0]
