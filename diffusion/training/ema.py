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

    def __init__(self, decay: float = 0.9999, warmup: bool = False) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"an EMA decay lies in [0, 1), got {decay}; set ema.decay")
        self.decay = decay
        self.warmup = warmup

    def beta(self, step: int) -> float:
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


class HalfLifeEMA(EMA):
    """beta = 0.5^(batch_size / half-life), in images, so that another batch size keeps the same memory.

    The half-life grows with training up to its value: at most ``ramp`` times the images seen so far (Karras et al.
    2022, their code). ``images``: EDM's is 500,000 on CIFAR-10.

    batch_size: images of one optimizer step, over all devices and accumulated batches.
    ramp: ``None`` for a constant half-life.
    """

    def __init__(self, images: float = 500_000, batch_size: int = 128, ramp: float | None = 0.05) -> None:
        if not images > 0 or batch_size < 1 or (ramp is not None and not ramp > 0):
            raise ValueError(
                "a half-life and its ramp are above 0 and the batch size at least 1, got "
                f"images={images}, batch_size={batch_size}, ramp={ramp}; set them in ema"
            )
        self.images = images
        self.batch_size = batch_size
        self.ramp = ramp

    def beta(self, step: int) -> float:
        seen = (step - 1) * self.batch_size  # before this step: the first one keeps nothing of the initial weights
        half_life = self.images if self.ramp is None else min(self.images, seen * self.ramp)
        return 0.5 ** (self.batch_size / half_life) if half_life > 0 else 0.0


class PowerEMA(EMA):
    """beta = (1 - 1 / step)^(gamma + 1): the weights of step k count like k^gamma (Karras et al. 2024, eqs. 2-3, 127).

    Its length is a fixed share of the training so far, and it forgets the initial weights entirely.

    std: the length, as the standard deviation of the profile over the length of training, in (0, 0.28); 0.05 and 0.1
        are the paper's. See :mod:`diffusion.training.callbacks.posthoc` for any length after training.
    """

    def __init__(self, std: float = 0.05) -> None:
        self.std = std
        self.gamma = exponent(std)

    def beta(self, step: int) -> float:
        return (1 - 1 / step) ** (self.gamma + 1)


def exponent(std: float) -> float:
    """gamma of the power profile with relative standard deviation ``std``: the positive root of
    std^2 (gamma + 2)^2 (gamma + 3) = gamma + 1 (Karras et al. 2024, eq. 126).

    Raises:
        ValueError: no profile gamma > 0 is that long or short.
    """
    if not 0 < std < 12**-0.5:
        raise ValueError(f"a power function's relative length lies in (0, 0.288), got {std}; set ema.std")
    low, high = 0.0, 1.0
    while (high + 1) / ((high + 2) ** 2 * (high + 3)) > std**2:
        high *= 2
    for _ in range(200):
        mid = 0.5 * (low + high)
        low, high = (mid, high) if (mid + 1) / ((mid + 2) ** 2 * (mid + 3)) > std**2 else (low, mid)
    return high


@torch.no_grad()
def average(averaged: Iterable[Tensor], current: Iterable[Tensor], beta: float) -> None:
    """One EMA update of matching lists of parameters, fused over all of them."""
    torch._foreach_lerp_(list(averaged), list(current), 1.0 - beta)


@torch.no_grad()
def copy_buffers(averaged: nn.Module, current: nn.Module) -> None:
    """Buffers (running statistics, frequencies) are copied, not averaged."""
    for mine, theirs in zip(averaged.buffers(), current.buffers(), strict=True):
        mine.copy_(theirs)
