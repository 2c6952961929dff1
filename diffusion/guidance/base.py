r"""Guidance: a denoiser around a denoiser. It nests, works in every sampler, and states its interval in sigma / alpha.

The guided prediction stays consistent, x_t = alpha x_0 + sigma eps: a wrapper changes one of the two and derives the
other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from diffusion.schedule.base import Schedule
from diffusion.types import Cond, Denoiser, Prediction, combine, expand


class Guidance(ABC):
    """A denoiser that asks another one and changes its answer.

    needs_grad: differentiates through the denoiser, so sampling must not run in inference mode.
    """

    needs_grad: bool = False

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.needs_grad = self.needs_grad or getattr(denoiser, "needs_grad", False)

    @abstractmethod
    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = ...) -> Prediction:
        """x (B, ...), t a float, () or (B,) -> the guided prediction."""


def coefficients(schedule: Schedule, x: Tensor, t: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
    """(alpha, sigma) at t: floats for a float, float64 tensors () or (B,) on x's device for a tensor."""
    if isinstance(t, Tensor):
        t = t.to(x.device)
        return schedule.alpha(t), schedule.sigma(t)
    level = schedule.level(t)
    return level.alpha, level.sigma


def with_x0(schedule: Schedule, prediction: Prediction, x0: Tensor, x: Tensor, t: Tensor | float) -> Prediction:
    """The prediction with another x_0, and the eps that x = alpha x_0 + sigma eps then implies.

    Where sigma is 0, x says nothing of eps, and the prediction's own is kept.
    """
    alpha, sigma = coefficients(schedule, x, t)
    eps = _other(x, x0, alpha, sigma, prediction.eps)
    return Prediction(x0, eps, prediction.var_mix)


def with_eps(schedule: Schedule, prediction: Prediction, eps: Tensor, x: Tensor, t: Tensor | float) -> Prediction:
    """The prediction with another eps, and the x_0 that x = alpha x_0 + sigma eps then implies.

    Where alpha is 0, x says nothing of x_0, and the prediction's own is kept.
    """
    alpha, sigma = coefficients(schedule, x, t)
    return Prediction(_other(x, eps, sigma, alpha, prediction.x0), eps, prediction.var_mix)


def mix(a: Prediction, b: Prediction, scale: Tensor | float) -> Prediction:
    """a + scale (b - a) in both expectations, so it stays consistent; the learned variance is b's."""
    if isinstance(scale, Tensor):
        scale = expand(scale.to(a.x0), a.x0)
    return Prediction(torch.lerp(a.x0, b.x0, scale), torch.lerp(a.eps, b.eps, scale), b.var_mix)


def noise_of(schedule: Schedule, x: Tensor, t: Tensor | float) -> Tensor | float:
    """sigma / alpha at t, a float for a float; inf where alpha is 0."""
    if not isinstance(t, Tensor):
        return schedule.level(t).noise
    alpha, sigma = coefficients(schedule, x, t)
    return sigma / alpha


def interval_of(interval: Iterable[float] | None, key: str) -> tuple[float, float]:
    """(low, high) of an interval in sigma / alpha, everything where ``None``.

    Raises:
        ValueError: not two numbers 0 <= low <= high; ``key`` is where to set them.
    """
    if interval is None:
        return -math.inf, math.inf
    low, high = bounds if len(bounds := tuple(interval)) == 2 else (math.nan, math.nan)
    if not 0 <= low <= high:
        raise ValueError(
            f"a guidance interval is [low, high] in sigma / alpha with 0 <= low <= high, got {list(bounds)}; set {key}"
        )
    return float(low), float(high)


def _other(x: Tensor, known: Tensor, a: Tensor | float, b: Tensor | float, otherwise: Tensor) -> Tensor:
    """(x - a known) / b, ``otherwise`` where b is 0."""
    if isinstance(b, Tensor):
        safe = torch.where(b == 0, 1.0, b)
        return torch.where(expand(b == 0, x), otherwise, combine(1 / safe, x, -a / safe, known))
    return otherwise if b == 0.0 else combine(1 / b, x, -a / b, known)


Wrapper = Callable[[Denoiser], Denoiser]
"""A guidance with everything but its denoiser given."""


def guide(denoiser: Denoiser, wrappers: Mapping[str, Wrapper] | Iterable[Wrapper]) -> Denoiser:
    """The denoiser inside ``wrappers``, innermost first, as ``guidance=[...]`` lists them."""
    for wrap in wrappers.values() if isinstance(wrappers, Mapping) else wrappers:
        denoiser = wrap(denoiser)
    return denoiser
