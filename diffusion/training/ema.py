"""Averages of the weights over training. The raw weights are never touched: the average is a second copy.

theta_ema <- beta theta_ema + (1 - beta) theta        after every optimizer step
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class EMA(ABC):
    """A rule for beta, the share of the average that an optimizer step keeps."""

    @abstractmethod
    def beta(self, step: int) -> float:
        """beta for the ``step``-th optimizer step, counted from 1."""


class ConstantEMA(EMA):
    """beta = decay, with an optional warm-up min(decay, (1 + step) / (10 + step)).

    The warm-up forgets the initial weights early and reaches 0.9999 after 90,000 steps; without it, an average of a
    short training is mostly noise.
    """

    def __init__(self, decay: float = 0.9999, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"an EMA decay lies in [0, 1), got {decay}; set ema.decay")
        self.decay = decay
        self.warmup = warmup

    def beta(self, step: int) -> float:
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


@torch.no_grad()
def average(averaged: Iterable[Tensor], current: Iterable[Tensor], beta: float) -> None:
    """One EMA update of matching lists of parameters, fused over all of them."""
    torch._foreach_lerp_(list(averaged), list(current), 1.0 - beta)


@torch.no_grad()
def copy_buffers(averaged: nn.Module, current: nn.Module) -> None:
    """Buffers (running statistics, frequencies) are copied, not averaged."""
    for mine, theirs in zip(averaged.buffers(), current.buffers(), strict=True):
        mine.copy_(theirs)
