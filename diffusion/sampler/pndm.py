"""Pseudo linear multistep methods, PNDM and PLMS."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.ends import Final, check_final, ended
from diffusion.schedule.base import Level, Schedule
from diffusion.types import RandnLike, Spacing, combine

Start = Literal["runge_kutta", "improved_euler"]
State = tuple[Tensor, ...]
"""Earlier answers, the newest first."""

_ADAMS_BASHFORTH = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


_LEAP = 4.0
"""A step that raises alpha by more (the first of a cosine table, any from alpha = 0) is no small step in time: another
noise than the newest would be blown up by that ratio, so it is a DDIM step and the past begins after it."""


class PNDMSampler(Sampler):
    """DDIM steps whose noise is a multistep mean of the last four answers (Liu et al. 2022, PNDM, eqs. 11-13).

    The mean's coefficients are those of evenly spaced times; the order is 2 whatever their number, as the DDIM step
    takes the mean for constant.

    Args:
        start: ``runge_kutta`` is the paper's F-PNDM, four calls for each of the first three steps (eq. 13);
            ``improved_euler`` two calls for the first only, known as PLMS from latent diffusion.
        final: where the last step leads: ``clean`` data, or the ``first`` level of the table, as in latent diffusion's
            code.

    Raises:
        ValueError: an unknown start, or times that are far from evenly spaced.
    """

    order = 2
    invertible = True

    def __init__(
        self, steps: int = 50, spacing: Spacing | None = None, start: Start = "runge_kutta", final: Final = "clean"
    ) -> None:
        super().__init__(steps, spacing)
        if start not in get_args(Start):
            raise ValueError(f"start is runge_kutta or improved_euler, got {start!r}; set sampler.start")
        check_final(final)
        self.start, self.final = start, final

    def levels(self, schedule: Schedule) -> list[Level]:
        levels = super().levels(schedule)
        gaps = [a.t - b.t for a, b in pairwise(levels)]
        inner = gaps[:-1] or gaps  # the step to clean data is shorter or longer in most spacings
        if max(inner) > 1.5 * min(inner) and max(inner) - min(inner) > 1.5 / (schedule.steps or 1e9):
            raise ValueError(
                f"{type(self).__name__} takes a mean whose coefficients hold for evenly spaced times only, and these "
                f"steps are {min(inner):.2g} to {max(inner):.2g} long; use spacing=trailing, uniform or linspace, "
                "or sampler=deis, which has coefficients for any spacing"
            )
        return ended(levels, schedule, self.final)

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: State | None, randn_like: RandnLike
    ) -> tuple[Tensor, State]:
        newest = denoise(x, cur.t)
        past = (newest.eps, *(state or ()))[:4]
        ddim = newest.mix(nxt.alpha, nxt.sigma)
        if nxt.alpha > _LEAP * cur.alpha:
            return ddim, ()
        if nxt.sigma > 0 and self.start == "runge_kutta" and len(past) < 4:
            return _transfer(x, self._runge_kutta(denoise, x, newest.eps, cur, nxt), cur, nxt), past
        if nxt.sigma > 0 and len(past) < 2:
            return _transfer(x, (newest.eps + denoise(ddim, nxt.t).eps) / 2, cur, nxt), past
        if len(past) < 2:
            return ddim, past
        mean = sum(c * e for c, e in zip(_ADAMS_BASHFORTH[len(past)], past, strict=True))
        return _transfer(x, mean, cur, nxt), past  # type: ignore[arg-type]

    @staticmethod
    def _runge_kutta(denoise: Denoise, x: Tensor, e1: Tensor, cur: Level, nxt: Level) -> Tensor:
        middle = denoise.schedule.level((cur.t + nxt.t) / 2)
        e2 = denoise(_transfer(x, e1, cur, middle), middle.t).eps
        e3 = denoise(_transfer(x, e2, cur, middle), middle.t).eps
        e4 = denoise(_transfer(x, e3, cur, nxt), nxt.t).eps
        return (e1 + 2 * e2 + 2 * e3 + e4) / 6


def _transfer(x: Tensor, eps: Tensor, cur: Level, nxt: Level) -> Tensor:
    """The DDIM step with a given noise (eq. 11)."""
    return combine(nxt.alpha / cur.alpha, x, nxt.sigma - nxt.alpha * cur.noise, eps)
