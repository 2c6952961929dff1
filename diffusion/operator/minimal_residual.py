"""A linear map undone by applying it, symmetric or not: the residual never grows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.types import expand


def minimal_residual(apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """u (B, ...) of the Krylov space of each sample, b, M b, ..., M^(iterations - 1) b, with the least |M u - b|, which
    is what GMRES finds (Saad & Schultz 1986): the next direction is M of the one before, made orthogonal in its images
    (Young & Jea 1980, ORTHODIR), so that M may be indefinite; it is applied ``iterations`` times."""
    u, residual = torch.zeros_like(b), b
    past: list[tuple[Tensor, Tensor]] = []  # directions, and M of them, which are orthonormal
    for _ in range(iterations):
        direction = past[-1][1] if past else b
        applied = apply(direction)
        for other, image in past:
            share = _dot(applied, image)
            direction, applied = direction - share * other, applied - share * image
        size = _dot(applied, applied).sqrt()
        scale = torch.where(size == 0, 0.0, 1 / torch.where(size == 0, 1.0, size))  # nothing is left to solve
        direction, applied = scale * direction, scale * applied
        step = _dot(residual, applied)
        u, residual = u + step * direction, residual - step * applied
        past.append((direction, applied))
    return u


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B,) as it multiplies (B, ...)."""
    return expand((a * b).flatten(1).sum(1), a)
