"""What passes between the rooms: a condition, a prediction, and the one call that samplers and guidance make.

Shapes: ``x`` is (B, ...) with any trailing shape, ``t`` is a float, a 0-d tensor or (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from diffusion.condition import Cond
from diffusion.schedule.base import Schedule

__all__ = [
    "Cond",
    "Denoiser",
    "Prediction",
    "RandnLike",
    "Reached",
    "Rows",
    "Spacing",
    "combine",
    "expand",
    "scale",
    "to_device_async",
]

RandnLike: TypeAlias = Callable[[Tensor], Tensor]
"""Standard normal noise of the given tensor's shape, dtype and device. Injected, so that sample i is its own."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model predicts from x_t: both expectations, since each alone divides by zero at one end.

    x0: E[x_0 | x_t], (B, ...). eps: E[eps | x_t], (B, ...). They satisfy x_t = alpha x0 + sigma eps.
    var_mix: learned variance in [0, 1], log var = var_mix log beta + (1 - var_mix) log beta~
    (Nichol & Dhariwal 2021, eq. 15), or ``None`` where the variance is fixed.
    """

    x0: Tensor
    eps: Tensor
    var_mix: Tensor | None = None

    def mix(self, a: float, b: float) -> Tensor:
        """a x0 + b eps, (B, ...): at alpha and sigma of another level, the DDIM step there."""
        return combine(a, self.x0, b, self.eps)

    def at(self, schedule: Schedule, t: Tensor | float) -> Tensor:
        """alpha(t) x0 + sigma(t) eps, (B, ...), for a float or times (B,)."""
        if isinstance(t, Tensor):
            alpha, sigma = schedule.coefficients(t.to(self.x0.device))
            return combine(alpha, self.x0, sigma, self.eps)
        level = schedule.level(t)
        return self.mix(level.alpha, level.sigma)


class Reached(NamedTuple):
    """Where a sampler goes on from: x (B, ...) at time t, and what its next step remembers of those before."""

    x: Tensor
    t: float
    state: Any = None


@runtime_checkable
class Denoiser(Protocol):
    """All that samplers, guidance and evaluation know about a model."""

    schedule: Schedule

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = ...) -> Prediction: ...


def to_device_async(value: Tensor, device: torch.device) -> Tensor:
    """``value`` of the host on a device, without waiting for the device: a copy from pageable memory would."""
    if value.device == device or device.type != "cuda":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)


def expand(value: Tensor, like: Tensor) -> Tensor:
    """``value`` () or (B,) shaped to broadcast against ``like`` (B, ...)."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)) if value.ndim else value


def combine(a: Tensor | float, x: Tensor, b: Tensor | float, y: Tensor) -> Tensor:
    """a x + b y without needless work: coefficients are floats or (B,) tensors, and a float 0 or 1 costs nothing.

    The result keeps the dtype of ``x`` whatever the precision of the coefficients.
    """
    if isinstance(b, float) and b == 0.0:
        return scale(a, x)
    if isinstance(a, float) and a == 0.0:
        return scale(b, y)
    if isinstance(b, float):
        scaled = scale(a, x)  # fresh unless a is 1; a second fresh tensor costs more than the addition
        return torch.add(x, y, alpha=b) if scaled is x else scaled.add_(y, alpha=b)
    return scale(a, x) + scale(b, y)


def scale(a: Tensor | float, x: Tensor) -> Tensor:
    """a x, for a float or a (B,) tensor; ``x`` itself where a is the float 1."""
    if isinstance(a, Tensor):
        return expand(a.to(x), x) * x
    return x if a == 1.0 else x * a


@runtime_checkable
class Rows(Protocol):
    """A column of requests too large to hold: its rows are made when asked for, and ``sha256`` is of all of them."""

    @property
    def sha256(self) -> str: ...

    def __len__(self) -> int: ...

    def rows(self, rows: Tensor) -> Tensor:
        """(B,) int64 -> (B, ...)."""
        ...


def rows_of(column: Tensor | Sequence[Any] | Rows, rows: Tensor) -> Any:
    """The values of a column at ``rows`` (B,) int64: a tensor (B, ...) of one that is held or read, a list of texts."""
    if isinstance(column, Tensor):
        return column[rows]
    return column.rows(rows) if isinstance(column, Rows) else [column[i] for i in rows.tolist()]


class Spacing(ABC):
    """Which times a sampler visits."""

    @abstractmethod
    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        """Decreasing times in [0, 1], ``steps`` of them and a last 0.

        Raises:
            ValueError: a number of steps that this spacing or this schedule cannot give.
        """
