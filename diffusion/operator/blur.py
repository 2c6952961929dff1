"""A blurred image."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.operator.convolution import ConvolutionOperator


class BlurOperator(ConvolutionOperator):
    """A x = x convolved with a Gaussian, whose transform is exp(-2 pi^2 width^2 f^2).

    width: standard deviation of the Gaussian in pixels.
    """

    def __init__(self, width: float = 1.5) -> None:
        if not width > 0:
            raise ValueError(f"the width of a blur is above 0 pixels, got {width}; set operator.width")
        self.width = width

    def transfer(self, rows: Tensor, columns: Tensor) -> Tensor:
        return (-2 * (torch.pi * self.width) ** 2 * (rows**2 + columns**2)).exp()
