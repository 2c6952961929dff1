"""Learning-rate schedules, stepped once an optimizer step, as factors of the optimizer's own rate."""

from __future__ import annotations

import math

from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import Optimizer


class Factor(LambdaLR):
    """The optimizer's own rate times a function of the number of steps taken."""

    def step(self, epoch: int | None = None) -> None:
        """As torch's, which looks at every step for an optimizer that was not stepped: five times as long."""
        if epoch is not None or self._step_count < 1:
            super().step(epoch)
            return
        self._step_count += 1
        self.last_epoch += 1
        self.apply()

    def apply(self) -> None:
        """Sets the rates of the step that the schedule stands at."""
        self._last_lr = [
            base * factor(self.last_epoch) for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


class ConstantSchedule(Factor):
    """Linear warm-up from 0 over ``warmup`` steps, then constant (Ho et al. 2020, appendix B: 5,000 steps)."""

    def __init__(self, optimizer: Optimizer, warmup: int = 0) -> None:
        _check(warmup)
        super().__init__(optimizer, lambda step: _ramp(step, warmup))


class CosineSchedule(Factor):
    """Linear warm-up, then half a cosine from 1 to ``floor`` at ``total`` steps (Loshchilov & Hutter 2017, eq. 5).

    A run no longer than its warm-up only warms up.
    """

    def __init__(self, optimizer: Optimizer, total: int, warmup: int = 0, floor: float = 0.0) -> None:
        _check_end(total, floor)
        _check(warmup)

        def factor(step: int) -> float:
            left = 0.5 * (1 + math.cos(math.pi * _done(step, total, warmup)))
            return _ramp(step, warmup) * (floor + (1 - floor) * left)

        super().__init__(optimizer, factor)


class LinearSchedule(Factor):
    """Linear warm-up, then a line from 1 to ``floor`` at ``total`` steps (Salimans & Ho 2022, for each halving).

    A run no longer than its warm-up only warms up.
    """

    def __init__(self, optimizer: Optimizer, total: int, warmup: int = 0, floor: float = 0.0) -> None:
        _check_end(total, floor)
        _check(warmup)

        def factor(step: int) -> float:
            return _ramp(step, warmup) * (1 - (1 - floor) * _done(step, total, warmup))

        super().__init__(optimizer, factor)


def _done(step: int, total: int, warmup: int) -> float:
    """The share of the steps after the warm-up that were taken."""
    return min(max(step - warmup, 0) / max(total - warmup, 1), 1.0)


def _check_end(total: int, floor: float) -> None:
    if total < 1:
        raise ValueError(f"a rate that falls over {total} steps ends nowhere; set trainer.max_steps")
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"the floor is a share of the learning rate in [0, 1], got {floor}; set lr_scheduler.floor")


def _ramp(step: int, warmup: int) -> float:
    return min((step + 1) / warmup, 1.0) if warmup > 0 else 1.0


def _check(warmup: int) -> None:
    if warmup < 0:
        raise ValueError(f"warm-up is a number of steps, at least 0, got {warmup}; set lr_scheduler.warmup")
