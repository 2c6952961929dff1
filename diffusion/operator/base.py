"""What guidance needs of a measurement's operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

Filter = Callable[[Tensor], Tensor]
"""Singular values -> factors, elementwise."""


class Operator(ABC):
    """A map A of images (B, C, H, W), differentiable; linear but for :class:`NonlinearOperator`.

    smooth: what it measures is an image, as smooth as the one it measures, so that noise can be told from it.
    """

    linear: ClassVar[bool] = True
    smooth: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x."""

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        """A^T y, images of ``shape`` (B, C, H, W); differentiable in y."""
        with torch.enable_grad():
            x = torch.zeros(shape, dtype=y.dtype, device=y.device, requires_grad=True)
            (found,) = torch.autograd.grad(self(x), x, y, create_graph=y.requires_grad)
        return found

    @abstractmethod
    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        """(spread A A^T + noise I)^-1 residual, for variances spread > 0 and noise >= 0."""

    def once(self, make: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """make(x), which depends on the size, type and device of x (B, C, H, W) alone: made for the first such x."""
        key = (make.__name__, tuple(x.shape[-2:]), x.dtype, x.device)
        if key not in self._made:
            with torch.inference_mode(False), torch.no_grad():
                self._made[key] = make(x)
        return self._made[key]

    @cached_property
    def _made(self) -> dict[tuple[object, ...], Tensor]:
        return {}

    @property
    def decomposed(self) -> bool:
        """Its singular value decomposition is known: :meth:`spectral` can be called."""
        return type(self).spectral is not Operator.spectral

    def spectral(self, f: Filter, x: Tensor) -> Tensor:
        """V f(S) V^T x with A = U S V^T, for what weighs each singular direction of an image by itself.

        Raises:
            ValueError: the decomposition of this operator is not known.
        """
        raise ValueError(
            f"{type(self).__name__} has no singular value decomposition that is cheap; choose guidance=diffpir, mmps "
            "or dps, or another operator"
        )


class NonlinearOperator(Operator):
    """A map of images that has no matrix: for guidance that differentiates it and nothing else."""

    linear = False

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        raise self._refused()

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        raise self._refused()

    def _refused(self) -> ValueError:
        return ValueError(f"{type(self).__name__} is not linear and has neither adjoint nor inverse; {NONLINEAR}")


NONLINEAR = (
    "choose guidance=dps or guidance=daps, which only differentiate it; on latents guidance=resample, or psld with "
    "guidance.psld.gluing=0"
)


def projected(x: Tensor, seen: Tensor, f: Filter, value: float) -> Tensor:
    """V f(S) V^T x of an operator whose singular values are ``value`` and 0; seen: A^+ A x, the part of x that it
    measures."""
    one, none = (float(f(torch.tensor(s, dtype=torch.float64))) for s in (value, 0.0))
    return none * x + (one - none) * seen
