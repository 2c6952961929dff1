"""BDIA: DDIM steps of which the inverse is known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.sampler.base import Denoise, OnStep, Sampler, told
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, RandnLike, Reached, Spacing, combine, scale

Past = tuple[Level, Tensor]
"""The level before, and x there."""
State = tuple[Level, Tensor, Tensor | None]
"""The same, and the x that was reached from there, where it is known: after another one a step is DDIM's."""


class BDIASampler(Sampler):
    r"""Bidirectional integration (Zhang et al. 2023, Exact diffusion inversion via bidirectional integration
    approximation, BDIA-DDIM): with the prediction at t_i and its DDIM steps x^(s) to any level s,

        x_{i-1} = x^(i-1) + gamma r_{i-1} / r_{i+1} (x_{i+1} - x^(i+1)),   r^2 = alpha^2 + sigma^2,

    which is solved for x_{i+1} whatever the network is. The first step is DDIM's. r is 1 on a variance-preserving
    schedule, the paper's, and elsewhere what makes the states of one size. Rounding grows on the way down by as much as
    the exact flow shrinks there: at most by alpha / sigma of the cleanest noisy level.

    Args:
        gamma: in (0, 1]. 1 is symmetric in time, of order 2 on smooth levels, and loses nothing on the way back; below
            it, errors of earlier steps fade, the order is 1, and the way back enlarges them by 1 / gamma a step.

    Raises:
        ValueError: gamma outside (0, 1].
    """

    order = 2
    invertible = True

    def __init__(self, steps: int = 50, spacing: Spacing | None = None, gamma: float = 1.0) -> None:
        super().__init__(steps, spacing)
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma lies in (0, 1], got {gamma}; set sampler.gamma")
        self.gamma = float(gamma)
        self.order = 2 if gamma == 1 else 1

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: State | None, randn_like: RandnLike
    ) -> tuple[Tensor, State]:
        moved = state is not None and state[2] is not None and state[2] is not x  # by guidance, onto another path
        out = self._reached(denoise, x, cur, nxt, None if state is None or moved else state[:2], self.gamma)
        return out, (cur, x, out)

    @torch.no_grad()
    def invert(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        cond: Cond = Cond(),  # noqa: B008 - frozen and empty
        *,
        to: float = 1.0,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """See the base; from this noise alone the way back begins with DDIM's step, and is of this sampler's order.
        :meth:`inverse` gives what leads back exactly."""
        found, levels = self._up(denoiser, x0, cond, to, on_step), self.inverse_levels(denoiser.schedule, to)
        x = found.x if found.state is None else found.state[1]
        return x if levels[0].t == to < 1 else scale(1 / self.prior_std(denoiser.schedule, levels[0]), x)

    @torch.no_grad()
    def inverse(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        cond: Cond = Cond(),  # noqa: B008 - frozen and empty
        *,
        to: float = 1.0,
        on_step: OnStep | None = None,
    ) -> Reached:
        """Data (B, ...) -> x at the second level, and x at the first: sampling goes on from them to the very data, up
        to rounding, under the same condition, for any network and any number of steps from 2.

        Raises:
            ValueError: a single step, or a time outside (0, 1].
        """
        found = self._up(denoiser, x0, cond, to, on_step)
        if found.state is None:
            raise ValueError("an exact inverse takes 2 steps or more below its first level; set sampler.steps")
        return found

    def _up(self, denoiser: Denoiser, x0: Tensor, cond: Cond, to: float, on_step: OnStep | None) -> Reached:
        """The last two states; the first of all is the fixed point x_1 = alpha x_0 + sigma E[eps | x_1]."""
        levels = self.inverse_levels(denoiser.schedule, to)[::-1]
        denoise, first = Denoise(denoiser, cond, denoiser.schedule), levels[1]
        if first.alpha == 0:
            raise ValueError("a single step from alpha = 0 has no inverse; set sampler.steps to 2 or more")
        x = scale(first.alpha, x0)
        for _ in range(self.order + 1):
            x = combine(first.alpha, x0, first.sigma, denoise(x, first.t).eps)
        reached, past = Reached(x, first.t), (levels[0], x0)
        told(on_step, 0, first, x, denoise)
        for i, (cur, nxt) in enumerate(pairwise(levels[1:])):
            x = self._reached(denoise, reached.x, cur, nxt, past, 1 / self.gamma)
            past, reached = (cur, reached.x), Reached(x, nxt.t)
            told(on_step, i + 1, nxt, x, denoise)
        if len(levels) == 2:
            return reached
        return Reached(past[1], past[0].t, (levels[-1], reached.x, None))

    @staticmethod
    def _reached(denoise: Denoise, x: Tensor, cur: Level, nxt: Level, past: Past | None, gamma: float) -> Tensor:
        """x at ``nxt``, up or down."""
        prediction = denoise(x, cur.t)
        out = prediction.mix(nxt.alpha, nxt.sigma)
        if past is None:
            return out
        level, before = past
        weight = gamma * math.hypot(nxt.alpha, nxt.sigma) / math.hypot(level.alpha, level.sigma)
        return out + weight * (before - prediction.mix(level.alpha, level.sigma))
