"""Computed tomography: an image's sums along lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.operator.base import Operator
from diffusion.operator.conjugate_gradients import conjugate_gradients


class RadonOperator(Operator):
    """A x = for each of ``angles`` directions, evenly spaced over half a turn, the sums of the image along parallel
    lines, one a column of the image turned by the angle (bilinear between pixels, 0 outside), over its height:
    (B, C, angles, W) of square images. The adjoint is that of this very sum, by automatic differentiation.

    Args:
        angles: number of directions.
        iterations: of conjugate gradients in ``solve``.
    """

    def __init__(self, angles: int = 30, iterations: int = 30) -> None:
        if angles < 1 or iterations < 1:
            raise ValueError(
                f"angles and iterations are at least 1, got {angles} and {iterations}; set operator.angles and "
                "operator.iterations"
            )
        self.angles, self.iterations = angles, iterations

    def __call__(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if height != width:
            raise ValueError(f"tomography is of square images, got {height} by {width}; choose another operator")
        flat = x.reshape(1, batch * channels, height, width).expand(self.angles, -1, -1, -1)
        turned = F.grid_sample(flat, self.once(self._grid, x), align_corners=False)
        return turned.mean(2).reshape(self.angles, batch, channels, width).permute(1, 2, 0, 3)

    def _grid(self, x: Tensor) -> Tensor:
        """Where each turned image is read, (angles, H, W, 2)."""
        turn = torch.arange(self.angles, dtype=x.dtype, device=x.device) * (torch.pi / self.angles)
        cos, sin, zero = turn.cos(), turn.sin(), torch.zeros_like(turn)
        affine = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], 1)
        return F.affine_grid(affine, [self.angles, 1, *x.shape[-2:]], align_corners=False)

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        shape = (*residual.shape[:2], residual.shape[-1], residual.shape[-1])
        return conjugate_gradients(
            lambda z: spread * self(self.adjoint(z, shape)) + noise * z, residual, self.iterations
        )
