"""What passes between the rooms: a condition, a prediction, and the one call that samplers and guidance make.

Shapes: ``x`` is (B, ...) with any trailing shape, ``t`` is a float, a 0-d tensor or (B,).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from diffusion.schedule.base import Schedule

RandnLike: TypeAlias = Callable[[Tensor], Tensor]
"""Standard normal noise of the given tensor's shape, dtype and device. Injected, so that sample i is its own."""


@dataclass(frozen=True, slots=True)
class Cond:
    """A condition: one slot for each mechanism by which a network consumes one. All empty = unconditional.

    vector: (B, D), added to the time embedding or read by adaLN.
    tokens: (B, L, D), read by cross-attention; ``mask`` (B, L) is True where a token counts.
    image: (B, C, H, W), concatenated to the input's channels.
    class_label: (B,) int64, the raw class ids (what a classifier's guidance needs).
    augment_labels: (B, A), what augmentation did to a training image; ``None`` where nothing did, as in all sampling.
    null: the same slots with the condition removed; ``None`` where there is nothing to remove.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    class_label: Tensor | None = None
    augment_labels: Tensor | None = None
    null: Cond | None = None

    def drop(self, where: Tensor | None = None) -> Cond:
        """The condition removed from every sample, or from those where ``where`` (B,) is True.

        Raises:
            ValueError: there is a condition but no ``null`` to put in its place.
        """
        if self.null is None:
            if self.is_empty:
                return self
            raise ValueError(
                "this condition has no null counterpart, so it cannot be dropped; "
                "use a conditioner that provides one (conditioner=label)"
            )
        if where is None:
            return self.null
        mixed = {}
        for name in _SLOTS:
            mine, null = getattr(self, name), getattr(self.null, name)
            if mine is None or null is None:
                mixed[name] = mine
            else:
                mixed[name] = torch.where(where.reshape(-1, *[1] * (mine.ndim - 1)), null, mine)
        return Cond(**mixed, null=self.null)

    @property
    def is_empty(self) -> bool:
        """True where no slot is filled: an unconditional model."""
        return all(getattr(self, name) is None for name in _SLOTS)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Cond:
        """``fn`` applied to every tensor here and in ``null`` (slicing, moving to a device, repeating)."""
        slots = {name: None if (v := getattr(self, name)) is None else fn(v) for name in _SLOTS}
        return Cond(**slots, null=None if self.null is None else self.null.map(fn))

    @staticmethod
    def cat(first: Cond, second: Cond) -> Cond:
        """Two conditions as one of B1 + B2 samples, without ``null``; a slot must be filled in both or in neither."""
        slots: dict[str, Any] = {}
        for name in _SLOTS:
            a, b = getattr(first, name), getattr(second, name)
            if (a is None) != (b is None):
                raise ValueError(f"cannot join conditions: slot '{name}' is filled in one of them only")
            slots[name] = None if a is None else torch.cat((a, b))
        return Cond(**slots)


_SLOTS = tuple(f.name for f in fields(Cond) if f.name != "null")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of x_t: both expectations, since each alone divides by zero at one end.

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


class Spacing(ABC):
    """Which times a sampler visits."""

    @abstractmethod
    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        """Decreasing times in [0, 1], ``steps`` of them and a last 0.

        Raises:
            ValueError: a number of steps that this spacing or this schedule cannot give.
        """


class Randomness(ABC):
    """A source of draws for B samples; successive calls give successive draws.

    place: (B,) int64, where each sample stands in the batch of an optimizer step, over all ranks and accumulated parts.
    size: of that batch.
    """

    place: Tensor
    size: int

    @abstractmethod
    def rand(self) -> Tensor:
        """(B,) uniform in [0, 1), float64."""

    @abstractmethod
    def shared(self, group: Tensor) -> Tensor:
        """(B,) uniform in [0, 1), float64, the same for all samples of one group (B,) int64, on whatever rank."""

    @abstractmethod
    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal, of the shape (B, ...), dtype and device of ``x``."""


class GlobalRandomness(Randomness):
    """Draws from torch's global generator: what an objective uses where nobody hands it a keyed source."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self.place, self.size = torch.arange(len(like)), len(like)

    def rand(self) -> Tensor:
        return torch.rand(len(self._like), dtype=torch.float64, device=self._like.device)

    def shared(self, group: Tensor) -> Tensor:
        return torch.rand(int(group.max()) + 1, dtype=torch.float64)[group]

    def randn_like(self, x: Tensor) -> Tensor:
        return torch.randn_like(x)
