"""Magnetic resonance: some columns of an image's Fourier transform."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.operator.base import Filter, Operator


class FourierOperator(Operator):
    """A x = M F x, F the orthonormal Fourier transform of each channel and M the columns of k-space that were measured:
    a block of low frequencies, and others at random, one of ``acceleration`` in all (Zbontar et al. 2018, fastMRI).

    The measurement is (B, 2 C, H, W), real parts of all channels before imaginary ones, 0 where nothing was measured,
    zero frequency first. A real image's transform meets itself at -k, so A^T A is the filter (m(k) + m(-k)) / 2.

    Args:
        acceleration: columns of k-space for each that is measured, from 1.
        center: share of all columns that is measured around zero frequency; fastMRI has 0.08 at 4 and 0.04 at 8.
        seed: of the other columns.
    """

    def __init__(self, acceleration: float = 4.0, center: float = 0.08, seed: int = 0) -> None:
        if not (acceleration >= 1 and 0 < center <= 1 / acceleration):
            raise ValueError(
                "acceleration is at least 1 and center, a share of all columns, above 0 and at most 1 / acceleration, "
                f"got acceleration={acceleration} and center={center}; set operator.acceleration and operator.center"
            )
        self.acceleration, self.center, self.seed = acceleration, center, seed

    def __call__(self, x: Tensor) -> Tensor:
        found = torch.fft.fft2(x, norm="ortho") * self.measured(x)
        return torch.cat([found.real, found.imag], 1)

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        real, imaginary = (y * self.measured(y)).chunk(2, 1)
        return torch.fft.ifft2(torch.complex(real, imaginary), norm="ortho").real

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        shape = (len(residual), residual.shape[1] // 2, *residual.shape[2:])
        seen, weights = self.adjoint(residual, shape), self._weights(residual)
        inverse = torch.where(weights > 0, 1 / weights.clamp_min(0.5), 0)
        inner = self(self._filtered(seen, inverse**2 / (spread + noise * inverse)))  # within the range of A
        if noise == 0:
            return inner
        outside = self.measured(residual) * residual - self(self._filtered(seen, inverse))
        return inner + outside / noise

    def spectral(self, f: Filter, x: Tensor) -> Tensor:
        return self._filtered(x, f(self._weights(x).sqrt()))

    def measured(self, x: Tensor) -> Tensor:
        """(W,) 1 for a column of k-space that is measured, else 0, zero frequency first."""
        return self.once(self._columns, x)

    def _columns(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        low = max(1, round(self.center * width))
        count = max(low, round(width / self.acceleration))
        frequency = torch.fft.fftfreq(width, 1 / width)
        order = torch.randperm(width, generator=torch.Generator().manual_seed(self.seed)).double() + width
        rank = torch.where(frequency.abs() <= (low - 1) / 2 + 0.25, frequency.abs().double(), order).argsort()
        found = torch.zeros(width, dtype=x.dtype)
        found[rank[:count]] = 1
        return found.to(x.device)

    def _weights(self, x: Tensor) -> Tensor:
        """(m(k) + m(-k)) / 2, (W,): 0, 1/2 or 1."""
        found = self.measured(x)
        return (found + found.flip(0).roll(1, 0)) / 2

    @staticmethod
    def _filtered(x: Tensor, gain: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x, norm="ortho") * gain, norm="ortho").real
