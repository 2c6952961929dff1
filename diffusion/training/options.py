"""The options of an optimizer: those it was built with hold, also where its state comes from a checkpoint."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from diffusion.training.lr import Factor

Options = list[dict[str, Any]]
"""Of each parameter group: learning rate, betas, weight decay, ..."""


def options(optimizer: Optimizer) -> Options:
    """As they are now, in plain values."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def apply_options(optimizer: Optimizer, now: Options, then: Options, schedule: LRScheduler | None = None) -> None:
    """What differs from the options that the state was saved with takes the place of what the state brought.

    A schedule goes on from the step that it stands at, as a factor of the new learning rate.

    Args:
        optimizer: with its state restored.
        now: the options that it was built with.
        then: those that the optimizer of the checkpoint was built with.
        schedule: of the learning rate, restored too.
    """
    for place, (group, new, old) in enumerate(zip(optimizer.param_groups, now, then, strict=True)):
        for name in [name for name in new if new[name] != old.get(name)]:
            if name == "lr" and schedule is not None:
                share = group["lr"] / old["lr"] if old.get("lr") else 1.0
                schedule.base_lrs[place] = group["initial_lr"] = new["lr"]
                group["lr"] = share * new["lr"]
            else:
                group[name] = new[name]
    if isinstance(schedule, Factor):
        schedule.apply()
