"""A blurred image."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.operator.base import Operator


class BlurOperator(Operator):
    """A x = x convolved with a Gaussian on the torus (the edges meet), so that the Fourier transform diagonalises A.

    width: standard deviation of the Gaussian in pixels.
    """

    def __init__(self, width: float = 1.5) -> None:
        if not width > 0:
            raise ValueError(f"the width of a blur is above 0 pixels, got {width}; set operator.width")
        self.width = width

    def __call__(self, x: Tensor) -> Tensor:
        return self._filter(x, self._transfer(x))

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        if not noise > 0:
            raise ValueError(
                "a blur destroys fine detail, so it cannot be undone exactly: set the guidance's noise above 0"
            )
        return self._filter(residual, 1 / (spread * self._transfer(residual) ** 2 + noise))

    def _transfer(self, x: Tensor) -> Tensor:
        """The Gaussian's Fourier transform exp(-2 pi^2 width^2 f^2) at the frequencies of rfft2, (H, W // 2 + 1)."""
        rows = torch.fft.fftfreq(x.shape[-2], dtype=x.dtype, device=x.device)[:, None]
        columns = torch.fft.rfftfreq(x.shape[-1], dtype=x.dtype, device=x.device)[None]
        return (-2 * (torch.pi * self.width) ** 2 * (rows**2 + columns**2)).exp()

    @staticmethod
    def _filter(x: Tensor, gain: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=x.shape[-2:])
