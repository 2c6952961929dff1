"""Convolution with a kernel that is its own mirror image."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from diffusion.operator.base import Filter, Operator


class ConvolutionOperator(Operator):
    """A x = x convolved with an even kernel on the torus (the edges meet), so that the Fourier transform diagonalises
    A = A^T; its singular values are the magnitudes of the kernel's transform."""

    smooth = True

    @abstractmethod
    def transfer(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The kernel's Fourier transform at frequencies in cycles a pixel: (H, 1) and (1, W // 2 + 1) -> real
        (H, W // 2 + 1), or what broadcasts to it."""

    def __call__(self, x: Tensor) -> Tensor:
        return _filtered(x, self._gain(x))

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self(y)

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        if not noise > 0:
            raise ValueError(
                "a blur destroys fine detail, so it cannot be undone exactly: set the guidance's noise above 0"
            )
        return _filtered(residual, 1 / (spread * self._gain(residual) ** 2 + noise))

    def spectral(self, f: Filter, x: Tensor) -> Tensor:
        return _filtered(x, f(self._gain(x).abs()))

    def _gain(self, x: Tensor) -> Tensor:
        return self.once(self._transfer, x)

    def _transfer(self, x: Tensor) -> Tensor:
        rows = torch.fft.fftfreq(x.shape[-2], dtype=x.dtype, device=x.device)[:, None]
        columns = torch.fft.rfftfreq(x.shape[-1], dtype=x.dtype, device=x.device)[None]
        gain = self.transfer(rows, columns)
        if x.shape[-1] % 2 == 0:  # the last column meets itself: a real image has there the even part
            last = gain[..., -1]
            gain = torch.cat([gain[..., :-1], ((last + last.flip(-1).roll(1, -1)) / 2)[..., None]], -1)
        return gain


def _filtered(x: Tensor, gain: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=x.shape[-2:])
