"""An image blurred by motion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.operator.convolution import ConvolutionOperator


class MotionBlurOperator(ConvolutionOperator):
    """A x = mean of x along a straight line of ``length`` pixels through each pixel, the image band-limited in between:
    the kernel's transform is sinc(length (f . direction)).

    Args:
        length: of the line in pixels.
        angle: of the line in degrees, in [0, 180): 0 along a row, 90 along a column.
    """

    def __init__(self, length: float = 7.0, angle: float = 0.0) -> None:
        if not (length > 0 and 0 <= angle < 180):
            raise ValueError(
                f"a line's length is above 0 pixels and its angle lies in [0, 180), got length={length} and "
                f"angle={angle}; set operator.length and operator.angle"
            )
        self.length, self.angle = length, angle

    def transfer(self, rows: Tensor, columns: Tensor) -> Tensor:
        turn = math.radians(self.angle)
        return torch.sinc(self.length * (math.cos(turn) * columns + math.sin(turn) * rows))
