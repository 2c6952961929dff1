"""Spacings: which times a sampler visits. The solver does not know how they were chosen.

Times are floats in [0, 1], decreasing, the last 0. For a table of T betas, DDPM's index i stands at t = (i + 1) / T.
"""

from __future__ import annotations

from collections.abc import Iterable

from diffusion.schedule.base import FIRST, Schedule
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


def from_noises(schedule: Schedule, noises: Iterable[float]) -> list[float]:
    """Decreasing values of sigma / alpha -> the times at which the schedule has them, then 0."""
    times = [schedule.time(noise) for noise in noises]
    return [t for t in times if t > 0] + [0.0]


def noise_range(schedule: Schedule, low: float, high: float) -> tuple[float, float]:
    """The part of [low, high] in sigma / alpha that the schedule reaches; the first index of a table bounds it below.

    Raises:
        ValueError: the two ends are not 0 < low < high, or the schedule reaches no noise between them.
    """
    check_ends(low, high)
    cleanest = schedule.level(1 / schedule.steps if schedule.steps else FIRST).noise
    first, last = min(high, schedule.level(1.0).noise), max(low, cleanest)
    if not last < first:
        raise ValueError(
            f"this schedule has sigma/alpha from {cleanest:.3g} to {schedule.level(1.0).noise:.3g}, nothing of it in "
            f"[{low}, {high}]; set spacing.noise_min and spacing.noise_max inside its range"
        )
    return last, first


def check_ends(low: float, high: float) -> None:
    """Raises:
    ValueError: the two ends are not 0 < low < high.
    """
    if not 0 < low < high:
        raise ValueError(
            f"a spacing's ends are 0 < noise_min < noise_max in sigma/alpha, got {low} and {high}; "
            "set spacing.noise_min and spacing.noise_max"
        )
