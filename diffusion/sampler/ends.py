"""Where sampling starts and ends, which published codes settle differently."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from diffusion.schedule.base import Level, Schedule

Prior = Literal["schedule", "noise"]
"""The noise that sampling starts from: the schedule's own, or sigma times standard normal noise."""


def check_prior(prior: str) -> None:
    """Raises:
    ValueError: an unknown prior.
    """
    if prior not in get_args(Prior):
        raise ValueError(f"prior is schedule or noise, got {prior!r}; set sampler.prior")


Final = Literal["clean", "first"]
"""Where the last step leads: to clean data, or to the first level of the schedule's table."""


def check_final(final: str) -> None:
    """Raises:
    ValueError: an unknown final level.
    """
    if final not in get_args(Final):
        raise ValueError(f"final is clean or first, got {final!r}; set sampler.final")


def ended(levels: list[Level], schedule: Schedule, final: Final) -> list[Level]:
    """The levels, at t = 0 with the coefficients of the table's first level where that is ``final``.

    Raises:
        ValueError: the schedule has no table.
    """
    if final == "clean":
        return levels
    if schedule.steps is None:
        raise ValueError("final=first is the first level of a table, and this schedule is continuous; set final=clean")
    return [*levels[:-1], replace(schedule.level(1 / schedule.steps), t=0.0)]
