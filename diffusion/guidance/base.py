r"""Guidance: a denoiser around a denoiser. It nests, works in every sampler, and states its interval in sigma / alpha.

The guided prediction stays consistent, x_t = alpha x_0 + sigma eps: a wrapper changes one of the two and derives the
other. What is no prediction acts on the state after a step (:meth:`Guidance.after`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from diffusion.schedule.base import Level, Schedule
from diffusion.types import Cond, Denoiser, Prediction, RandnLike, combine, expand, scale

AfterStep = Callable[[Tensor, Level, Level], Tensor]


class Codec(Protocol):
    """What guidance of latents knows of an autoencoder, see :class:`diffusion.autoencoder.base.Autoencoder`."""

    def encode(self, image: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...


class StepReplay(Protocol):
    """The sampler's last steps, taken again from another x (:class:`diffusion.sampler.base.StepReplay`).

    taken: steps so far. left: steps still to come.
    """

    taken: int
    left: int

    def level(self, steps: int) -> Level:
        """The level where the last ``steps`` steps began."""

    def __call__(self, x: Tensor, steps: int = 1, after: AfterStep | None = None) -> Tensor:
        """x at ``level(steps)`` -> x at the level reached, ``after`` acting on each step."""


class Guidance(ABC):
    """A denoiser that calls another one and changes its prediction.

    needs_grad: differentiates through the denoiser, so sampling must not run in inference mode.
    pointwise: all that it does is its prediction at (x, t), so that a likelihood can be computed of it; False where it
        acts between steps or remembers earlier levels.
    num_classes: of the class labels that it asks for, also of a model that reads none; 0 where it asks for none.
    off: settings with which it does nothing, ``None`` where there are none; one with a scale has them.
    autoencoder: between images and the space where x lives, set by :func:`guide`; ``None`` where x are images.
    """

    needs_grad: bool = False
    num_classes: int = 0
    off: ClassVar[Mapping[str, Any] | None] = None
    autoencoder: Codec | None = None

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.needs_grad = self.needs_grad or getattr(denoiser, "needs_grad", False)
        self.pointwise = type(self).after is Guidance.after and getattr(denoiser, "pointwise", True)

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = ...) -> Prediction:
        """x (B, ...), t a float, () or (B,) -> the guided prediction."""

    def towards(self, x: Tensor, s: Tensor | float, cond: Cond) -> Cond:
        """The condition of a step to time s, see :meth:`diffusion.denoiser.NetworkDenoiser.towards`."""
        inner: Any = self.denoiser
        return inner.towards(x, s, cond)

    def jump(self, x: Tensor, t: Tensor | float, s: Tensor | float, cond: Cond = Cond()) -> Tensor:  # noqa: B008
        """x (B, ...) at t -> x at s, by the guided prediction."""
        return self(x, t, self.towards(x, s, cond)).at(self.schedule, s)

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        """What guidance makes of a sampler's step: x (B, ...) at ``nxt``, reached from ``cur`` -> x at ``nxt``.

        Most guidance changes the prediction and leaves this alone. It serves what acts on the state between two steps
        (replaced pixels, a gradient that is added to it), in any sampler; the innermost wrapper comes first.

        replay: the last steps from another x, for going back and forth.
        """
        inner = getattr(self.denoiser, "after", None)
        return x if inner is None else inner(x, cur, nxt, replay, randn_like)


def coefficients(schedule: Schedule, x: Tensor, t: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
    """(alpha, sigma) at t: floats for a float, float64 tensors () or (B,) on x's device for a tensor."""
    if isinstance(t, Tensor):
        t = t.to(x.device)
        return schedule.alpha(t), schedule.sigma(t)
    level = schedule.level(t)
    return level.alpha, level.sigma


def with_x0(schedule: Schedule, prediction: Prediction, x0: Tensor, x: Tensor, t: Tensor | float) -> Prediction:
    """The prediction with another x_0, and the eps that x = alpha x_0 + sigma eps then implies.

    Where sigma is 0, x does not depend on eps, and the prediction's own is kept.
    """
    alpha, sigma = coefficients(schedule, x, t)
    eps = _other(x, x0, alpha, sigma, prediction.eps)
    return Prediction(x0, eps, prediction.var_mix)


def with_eps(schedule: Schedule, prediction: Prediction, eps: Tensor, x: Tensor, t: Tensor | float) -> Prediction:
    """The prediction with another eps, and the x_0 that x = alpha x_0 + sigma eps then implies.

    Where alpha is 0, x does not depend on x_0, and the prediction's own is kept.
    """
    alpha, sigma = coefficients(schedule, x, t)
    return Prediction(_other(x, eps, sigma, alpha, prediction.x0), eps, prediction.var_mix)


def mix(a: Prediction, b: Prediction, weight: Tensor | float) -> Prediction:
    """a + weight (b - a) in both expectations, so it stays consistent; the learned variance is b's."""
    if isinstance(weight, Tensor):
        weight = expand(weight.to(a.x0), a.x0)
    return Prediction(torch.lerp(a.x0, b.x0, weight), torch.lerp(a.eps, b.eps, weight), b.var_mix)


def to_other(schedule: Schedule, other: Schedule, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor | float]:
    """(x, t) of one schedule as the same data in the same noise on another one, for a second model's prediction.

    Differentiable in x. Images meet where sigma / alpha is the same; they differ by a factor only.
    """
    if other is schedule:
        return x, t
    if not isinstance(t, Tensor):
        here = schedule.level(t)
        there = other.level(other.time(here.noise))
        return scale(there.alpha / here.alpha if here.alpha > 0 else there.sigma / here.sigma, x), there.t
    alpha, sigma = coefficients(schedule, x, t)
    at = other.times(torch.as_tensor(sigma / alpha))
    factor = torch.where(torch.as_tensor(alpha > 0), other.alpha(at) / alpha, other.sigma(at) / sigma)
    return scale(factor, x), at


def placed(model: Any, x: Tensor) -> Any:
    """A second model where x is: moved there at the first call, where it is a module."""
    if isinstance(model, nn.Module) and (parameter := next(model.parameters(), None)) is not None:
        return model if parameter.device == x.device else model.to(x.device)
    return model


def _other(x: Tensor, known: Tensor, a: Tensor | float, b: Tensor | float, otherwise: Tensor) -> Tensor:
    """(x - a known) / b, ``otherwise`` where b is 0."""
    if isinstance(b, Tensor):
        safe = torch.where(b == 0, 1.0, b)
        return torch.where(expand(b == 0, x), otherwise, combine(1 / safe, x, -a / safe, known))
    return otherwise if b == 0.0 else combine(1 / b, x, -a / b, known)


Wrapper = Callable[[Denoiser], Denoiser]
"""A guidance with everything but its denoiser given."""


def guide(
    denoiser: Denoiser, wrappers: Mapping[str, Wrapper] | Iterable[Wrapper], autoencoder: Codec | None = None
) -> Denoiser:
    """The denoiser inside ``wrappers``, innermost first, as ``guidance=[...]`` lists them; each is told of the
    autoencoder, where x are its latents."""
    for wrap in wrappers.values() if isinstance(wrappers, Mapping) else wrappers:
        denoiser = wrap(denoiser)
        if isinstance(denoiser, Guidance):
            denoiser.autoencoder = autoencoder
    return denoiser
