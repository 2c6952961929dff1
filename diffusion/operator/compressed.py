"""Compressed sensing: a few random projections of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.operator.base import Filter, Operator, projected


class CompressedOperator(Operator):
    """A x = M H D x for each channel: D random signs of pixels, H the orthonormal two-dimensional Hartley transform
    H x = Re F x - Im F x, its own inverse, and M a random ``share`` of its coefficients, 0 elsewhere; A A^T = M.

    A randomised orthonormal transform in place of a dense random matrix (Do et al. 2012, Fast and efficient compressive
    sensing using structurally random matrices). The measurement is (B, C, H, W).

    Args:
        share: of the coefficients that is measured, in (0, 1].
        seed: of signs and coefficients; the same for all images and channels.
    """

    def __init__(self, share: float = 0.25, seed: int = 0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"the share that is measured lies in (0, 1], got {share}; set operator.share")
        self.share, self.seed = share, seed

    def __call__(self, x: Tensor) -> Tensor:
        signs, measured = self.once(self._random, x)
        return measured * hartley(signs * x)

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        signs, measured = self.once(self._random, y)
        return signs * hartley(measured * y)

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        return self.once(self._random, residual)[1] * residual / (spread + noise)

    def spectral(self, f: Filter, x: Tensor) -> Tensor:
        return projected(x, self.adjoint(self(x), tuple(x.shape)), f, 1.0)

    def _random(self, x: Tensor) -> Tensor:
        """Signs and what is measured, (2, H, W)."""
        height, width = x.shape[-2:]
        generator = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(2, (height, width), generator=generator) * 2 - 1
        order = torch.randperm(height * width, generator=generator).reshape(height, width)
        return torch.stack([signs, order < max(1, round(self.share * height * width))]).to(x)


def hartley(x: Tensor) -> Tensor:
    """sum_p x_p (cos + sin)(2 pi k . p) / sqrt(H W), orthonormal and its own inverse."""
    found = torch.fft.fft2(x, norm="ortho")
    return found.real - found.imag
