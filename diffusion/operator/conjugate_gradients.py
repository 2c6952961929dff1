"""Conjugate gradients: a symmetric positive definite map undone by applying it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.types import expand


def conjugate_gradients(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """u (B, ...) with apply(u) = b for a symmetric positive definite map of each sample, from u = 0 (Hestenes & Stiefel
    1952)."""
    u, residual = torch.zeros_like(b), b
    direction, square = b, _dot(b, b)
    for _ in range(iterations):
        applied = apply(direction)
        step = _ratio(square, _dot(direction, applied))
        u = u + expand(step, u) * direction
        residual = residual - expand(step, u) * applied
        before, square = square, _dot(residual, residual)
        direction = residual + expand(_ratio(square, before), u) * direction
    return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, 0 where b is 0: nothing is left to solve."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))
