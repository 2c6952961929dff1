"""DPM-Solver-fast: single-step orders mixed so that they fill a number of network calls."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.exponential.dpm_solver_2 import DPMSolver2Sampler
from diffusion.sampler.exponential.dpm_solver_3 import DPMSolver3Sampler
from diffusion.sampler.exponential.dpm_solver_pp_2s import DPMSolverPP2SSampler
from diffusion.sampler.exponential.dpm_solver_pp_3s import DPMSolverPP3SSampler
from diffusion.schedule.base import Level, Schedule
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import RandnLike, Spacing

Answer = Literal["noise", "data"]
State = tuple[int, ...]
"""Orders of the steps to come."""


class DPMSolverFastSampler(Sampler):
    """Steps of order 3, then 2 or 1 where fewer calls are left (Lu et al. 2022, section 3.4 and appendix D).

    ``steps`` counts network calls, all of which are used: N calls make floor(N / 3) + 1 steps, of orders 3, ..., 3, 2
    and 1 where 3 divides N, else 3, ..., 3 and the remainder. A step to sigma = 0 or from alpha = 0, which has no
    middle in lam, takes one call of its own, and the rule fills the others: the paper stops before clean data. A last
    step of order 1 bounds the order of the whole at 2.

    Args:
        steps: calls of the network.
        predicts: noise (DPM-Solver) or data (DPM-Solver++, Lu et al. 2022b): whose expectation is integrated.

    Raises:
        ValueError: ``predicts`` is neither.
    """

    order = 2
    spacing = LogSNRSpacing()
    invertible = True

    def __init__(self, steps: int = 20, spacing: Spacing | None = None, predicts: Answer = "noise") -> None:
        super().__init__(steps, spacing)
        if predicts not in get_args(Answer):
            raise ValueError(f"predicts is noise or data, got {predicts!r}; set sampler.predicts")
        self.predicts = predicts
        two, three = (
            (DPMSolver2Sampler, DPMSolver3Sampler)
            if predicts == "noise"
            else (DPMSolverPP2SSampler, DPMSolverPP3SSampler)
        )
        self._solvers: dict[int, Sampler] = {1: DDIMSampler(1), 2: two(1), 3: three(1)}

    def levels(self, schedule: Schedule) -> list[Level]:
        first, last = schedule.level(1.0), schedule.level(0.0)
        levels = self.visit(schedule, len(self.orders(first, last)))
        if first.alpha == 0 < levels[0].alpha:  # the spacing starts below
            levels = self.visit(schedule, len(self.orders(levels[0], last)))
        return levels

    def orders(self, first: Level, last: Level) -> State:
        """Of the steps between these ends; they add up to the number of calls."""
        singular = int(first.alpha == 0), int(last.sigma == 0)
        if self.steps <= sum(singular):
            return (1,) * self.steps
        whole, rest = divmod(self.steps - sum(singular), 3)
        middle = (3,) * (whole - 1) + (2, 1) if rest == 0 else (3,) * whole + (rest,)
        return (1,) * singular[0] + middle + (1,) * singular[1]

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: State | None, randn_like: RandnLike
    ) -> tuple[Tensor, State | None]:
        if state is None:  # the first step, or one that guidance takes again
            levels = self.levels(denoise.schedule)
            orders, i = self.orders(levels[0], levels[-1]), levels.index(cur) if cur in levels else None
            state = (3,) if i is None else orders[i:] if nxt.t < cur.t else orders[:i][::-1]
        out, _ = self._solvers[state[0]].step(denoise, x, cur, nxt, None, randn_like)
        return out, state[1:] or None
