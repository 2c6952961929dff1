"""An image blurred by means over squares."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.operator.convolution import ConvolutionOperator


class BoxBlurOperator(ConvolutionOperator):
    """A x = means over the squares of ``side`` by ``side`` pixels around each pixel; along one axis the kernel's
    transform is (1 + 2 sum_{k=1}^{(side - 1) / 2} cos 2 pi k f) / side.

    side: odd, in pixels.
    """

    def __init__(self, side: int = 9) -> None:
        if side < 3 or side % 2 == 0:
            raise ValueError(f"the side of a box is an odd number of pixels from 3, got {side}; set operator.side")
        self.side = side

    def transfer(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self._along(rows) * self._along(columns)

    def _along(self, f: Tensor) -> Tensor:
        steps = torch.arange(1, self.side // 2 + 1, dtype=f.dtype, device=f.device)
        return (1 + 2 * (2 * torch.pi * f[..., None] * steps).cos().sum(-1)) / self.side
