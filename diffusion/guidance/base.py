r"""Guidance: a denoiser around a denoiser. It nests, works in every sampler, and states its interval in sigma / alpha.

The guided prediction stays consistent, x_t = alpha x_0 + sigma eps: a wrapper changes one of the two and derives the
other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from diffusion.types import Cond, Denoiser, Prediction


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


Wrapper = Callable[[Denoiser], Denoiser]
"""A guidance with everything but its denoiser given."""


def guide(denoiser: Denoiser, wrappers: Mapping[str, Wrapper] | Iterable[Wrapper]) -> Denoiser:
    """The denoiser inside ``wrappers``, innermost first, as ``guidance=[...]`` lists them."""
    for wrap in wrappers.values() if isinstance(wrappers, Mapping) else wrappers:
        denoiser = wrap(denoiser)
    return denoiser
