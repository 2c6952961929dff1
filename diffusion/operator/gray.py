"""An image without its colours."""

from __future__ import annotations

from torch import Tensor

from diffusion.operator.base import Filter, Operator, projected


class GrayOperator(Operator):
    """A x = the mean of the channels, (B, 1, H, W); A A^T = I / C. To colour a gray image is to undo it.

    channels: of the images, C.
    """

    smooth = True

    def __init__(self, channels: int = 3) -> None:
        if channels < 2:
            raise ValueError(f"an image of {channels} channels has no colours to take away; set operator.channels")
        self.channels = channels

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.channels:
            raise ValueError(f"the image has {x.shape[1]} channels and operator.channels is {self.channels}")
        return x.mean(1, keepdim=True)

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return y.expand(shape) / shape[1]

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        return residual / (spread / self.channels + noise)

    def spectral(self, f: Filter, x: Tensor) -> Tensor:
        return projected(x, x.mean(1, keepdim=True).expand_as(x), f, x.shape[1] ** -0.5)
