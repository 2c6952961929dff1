"""A smaller image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from diffusion.operator.base import Filter, Operator, projected


class DownsampleOperator(Operator):
    """A x = means over squares of ``factor`` by ``factor`` pixels; A A^T = I / factor^2."""

    smooth = True

    def __init__(self, factor: int = 2) -> None:
        if factor < 2:
            raise ValueError(f"the factor is a whole number from 2, got {factor}; set operator.factor")
        self.factor = factor

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(f"{list(x.shape[-2:])} is no multiple of {self.factor}; set operator.factor")
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return F.interpolate(y, scale_factor=self.factor, mode="nearest") / self.factor**2

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        return residual / (spread / self.factor**2 + noise)

    def spectral(self, f: Filter, x: Tensor) -> Tensor:
        seen = self.factor**2 * self.adjoint(self(x), tuple(x.shape))
        return projected(x, seen, f, 1 / self.factor)
