r"""Samplers: from noise to data along decreasing times, one loop for all of them.

With n = sigma / alpha and y = x / alpha, the probability-flow ODE of any schedule is dy/dn = E[eps | x_t]
(Song et al. 2021, eq. 13; Karras et al. 2022, eq. 4), and with lam = -log n it is semi-linear in E[x_0 | x_t]
(Lu et al. 2022). Steps are written with x_0 and eps rather than x / alpha, so that alpha = 0 and sigma = 0 are
ordinary ends. Coefficients are Python floats; the state keeps the tensor's dtype and never leaves its device.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from diffusion.sampler.ends import Prior
from diffusion.schedule.base import Level, Schedule
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond, Denoiser, Prediction, RandnLike, Reached, Spacing, combine, scale

AfterStep = Callable[[Tensor, Level, Level], Tensor]
"""x at the second level, reached from the first -> what becomes of it there."""
OnStep = Callable[[int, Level, Tensor, Tensor | None], None]
"""(number of the step, the level that it reached, x there, its last prediction of x_0)."""


@dataclass(slots=True)
class Denoise:
    """The denoiser with its condition bound: denoise(x, t), and the schedule for levels between those of a step.

    last: what it gave last, ``None`` before the first call.
    """

    denoiser: Denoiser
    cond: Cond
    schedule: Schedule
    last: Prediction | None = None

    def __call__(self, x: Tensor, t: float) -> Prediction:
        self.last = self.denoiser(x, t, self.cond)
        return self.last

    def jump(self, x: Tensor, t: float, s: float) -> Tensor:
        """x at t -> x at s in one call: the denoiser's own flow map, or the DDIM step of its prediction."""
        own = getattr(self.denoiser, "jump", None)
        jumped: Tensor = self(x, t).at(self.schedule, s) if own is None else own(x, t, s, self.cond)
        return jumped

    def at(self, noise: float) -> Level:
        """The level at which sigma / alpha is ``noise``."""
        return self.schedule.level(self.schedule.time(noise))


def told(on_step: OnStep | None, number: int, level: Level, x: Tensor, denoise: Denoise) -> None:
    """What listens to steps, if anything, hears of one."""
    if on_step is not None:
        on_step(number, level, x, None if denoise.last is None else denoise.last.x0)


class StepReplay:
    """Steps that were taken, from another x: for guidance that goes back and forth (RePaint).

    taken: steps so far. left: steps still to come. state: what the next step will remember.
    """

    def __init__(
        self, sampler: Sampler, denoise: Denoise, levels: list[Level], taken: int, randn_like: RandnLike
    ) -> None:
        self.sampler, self.denoise, self.levels, self.randn_like = sampler, denoise, levels, randn_like
        self.taken, self.left = taken, len(levels) - 1 - taken
        self.state: Any = None

    def level(self, steps: int) -> Level:
        """The level where the last ``steps`` steps began."""
        return self.levels[self.taken - steps]

    def __call__(self, x: Tensor, steps: int = 1, after: AfterStep | None = None) -> Tensor:
        """x at ``level(steps)`` -> x at the level reached, ``after`` acting on each step. They begin without a past:
        earlier answers are of another path."""
        self.state = None
        for cur, nxt in pairwise(self.levels[self.taken - steps : self.taken + 1]):
            x, self.state = self.sampler.step(self.denoise, x, cur, nxt, self.state, self.randn_like)
            x = x if after is None else after(x, cur, nxt)
        return x


class Sampler(ABC):
    """A way from noise to data.

    order: declared order of convergence on the probability-flow ODE (weak order for stochastic samplers).
    invertible: follows the probability-flow ODE, so that its steps lead from data to noise as well.
    prior: the noise that sampling starts from.
    spacing: which times are visited where the constructor is not told.
    noiseless: the setting with which a sampler that draws noise is invertible, ``None`` where there is none.

    Args:
        steps: number of steps, at least 1.
        spacing: which times are visited; the class's own ones where ``None``.

    Raises:
        ValueError: ``steps`` is not a whole number of at least 1.
    """

    order: int
    invertible: bool = False
    noiseless: ClassVar[str | None] = None
    prior: Prior = "schedule"
    spacing: Spacing = TrailingSpacing()

    def __init__(self, steps: int = 50, spacing: Spacing | None = None) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"a sampler takes a whole number of steps, at least 1, got {steps!r}; set sampler.steps")
        self.steps = steps
        if spacing is not None:
            self.spacing = spacing

    def with_steps(self, steps: int) -> Self:
        """The same sampler with another number of steps.

        Raises:
            ValueError: see the constructor.
        """
        other = copy.copy(self)
        Sampler.__init__(other, steps, self.spacing)
        return other

    def levels(self, schedule: Schedule) -> list[Level]:
        """The levels that are visited, from the noisiest to clean data.

        Raises:
            ValueError: more steps than the schedule's table has, or a spacing that does not decrease to 0.
        """
        return self.visit(schedule, self.steps)

    def visit(self, schedule: Schedule, count: int) -> list[Level]:
        """:meth:`levels` for ``count`` steps from level to level: a sampler may make another number of ``steps``."""
        if schedule.steps is not None and self.steps > schedule.steps:
            raise ValueError(
                f"{self.steps} sampling steps on a schedule with a table of {schedule.steps}; "
                f"set sampler.steps to at most {schedule.steps}"
            )
        times = self.spacing(schedule, count)
        if len(times) < 2 or times[-1] != 0.0 or not all(later < earlier for earlier, later in pairwise(times)):
            raise ValueError(f"a spacing gives strictly decreasing times that end at 0, got {times}")
        return [schedule.level(t) for t in times]

    def prior_std(self, schedule: Schedule, start: Level) -> float:
        """Standard deviation of the noise that sampling starts from at its noisiest level."""
        return start.sigma if self.prior == "noise" else schedule.prior_std(start)

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        noise: Tensor,
        cond: Cond = Cond(),  # noqa: B008 - frozen and empty
        *,
        start: tuple[Tensor, float] | Reached | None = None,
        end: float | None = None,
        randn_like: RandnLike = torch.randn_like,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Samples (B, ...) from standard normal ``noise`` (B, ...).

        start: (x_0 (B, ...), t): begins at alpha(t) x_0 + sigma(t) noise (SDEdit, Meng et al. 2022) and goes through
            the usual levels below t; those above are neither visited nor paid for. Or where :meth:`inverse` arrived,
            which takes the place of noise.
        end: a time in (0, 1): x there is given instead of samples, and the levels below are not visited.
        randn_like: source of the noise that stochastic samplers add.
        on_step: called after each step with its number, the level reached, x (B, ...) there, and the x_0 (B, ...) that
            was predicted last on the way, ``None`` where a flow map predicts none.
        """
        levels, state = self.levels(denoiser.schedule), None
        if start is None:
            x = scale(self.prior_std(denoiser.schedule, levels[0]), noise)
        else:
            top = denoiser.schedule.level(start[1])
            levels = [top, *(level for level in levels if level.t < top.t)]
            if isinstance(start, Reached):
                x, state = start.x, start.state
            else:
                x = combine(top.alpha, start[0], top.sigma, noise)
        if end is not None:
            if not 0 < end < levels[0].t:
                raise ValueError(f"sampling ends at a time between 0 and its first level's {levels[0].t}, got {end}")
            levels = [*(level for level in levels if level.t > end), denoiser.schedule.level(end)]
        denoise = Denoise(denoiser, cond, denoiser.schedule)
        after = getattr(denoiser, "after", None)  # a guidance's hold on the result of a step
        for i, (cur, nxt) in enumerate(pairwise(levels)):
            reached, then = self.step(denoise, x, cur, nxt, state, randn_like)
            if after is not None:
                replay = StepReplay(self, denoise, levels, i + 1, randn_like)
                replay.state = then
                reached, then = after(reached, cur, nxt, replay, randn_like), replay.state
            x, state = reached, then
            told(on_step, i, nxt, x, denoise)
        return x

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
        """Data (B, ...) -> x at the time ``to``; from time 1 divided by the prior's standard deviation, which is the
        noise that this sampler turns into the data again.

        The probability-flow ODE is followed through the same levels upwards by the same steps, so with the same order.
        The sampler's last step, x_0 = E[x_0 | x_t], is undone by its fixed point x_t = alpha x_0 + sigma E[eps | x_t];
        where alpha becomes 0 nothing but the noise is left, x = sigma E[eps | x].

        on_step: called at each level on the way up, as in sampling.

        Raises:
            ValueError: a sampler that draws noise, or a time outside (0, 1].
        """
        schedule = denoiser.schedule
        levels = self.inverse_levels(schedule, to)
        denoise = Denoise(denoiser, cond, schedule)
        up = levels[-2::-1]
        if up[0].alpha == 0:
            raise ValueError("a single step from alpha = 0 has no inverse; set sampler.steps to 2 or more")
        x = scale(up[0].alpha, x0)
        for _ in range(self.order + 1):
            x = combine(up[0].alpha, x0, up[0].sigma, denoise(x, up[0].t).eps)
        told(on_step, 0, up[0], x, denoise)
        state: Any = None
        for i, (cur, nxt) in enumerate(pairwise(up)):
            if nxt.alpha == 0:
                x = scale(nxt.sigma, denoise(x, cur.t).eps)
            else:
                x, state = self.step(denoise, x, cur, nxt, state, torch.zeros_like)
            told(on_step, i + 1, nxt, x, denoise)
        return x if levels[0].t == to < 1 else scale(1 / self.prior_std(schedule, levels[0]), x)

    def inverse(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        cond: Cond = Cond(),  # noqa: B008 - frozen and empty
        *,
        to: float = 1.0,
        on_step: OnStep | None = None,
    ) -> Reached:
        """Data (B, ...) -> where sampling starts that gives them back as far as :meth:`invert` does; see there."""
        top = self.inverse_levels(denoiser.schedule, to)[0]
        x = self.invert(denoiser, x0, cond, to=to, on_step=on_step)
        return Reached(x if top.t == to < 1 else scale(self.prior_std(denoiser.schedule, top), x), top.t)

    def inverse_levels(self, schedule: Schedule, to: float) -> list[Level]:
        """The levels of :meth:`invert`, the noisiest first.

        Raises:
            ValueError: see there.
        """
        if not self.invertible:
            instead = f"set sampler.{self.noiseless}" if self.noiseless else "use sampler=ddim, heun or a dpm_solver"
            raise ValueError(
                f"{type(self).__name__} draws noise on its way, or is no solver of the probability-flow ODE, and has "
                f"no inverse; {instead}"
            )
        if not 0 < to <= 1:
            raise ValueError(f"data are inverted to a time in (0, 1], got {to}")
        levels = self.levels(schedule)
        return levels if to >= levels[0].t else [schedule.level(to), *(level for level in levels if level.t < to)]

    @abstractmethod
    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, Any]:
        """x at ``cur`` -> x at ``nxt`` and what the next step should remember (``None`` at the first step)."""
