"""A denoiser of one size on larger images: tiles that overlap, averaged at every call."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.types import Cond, Denoiser, Prediction


class TiledDenoiser:
    """x_0 = sum_i w_i x_0^(i) / sum_i w_i over tiles, and the same for eps (Bar-Tal et al. 2023, MultiDiffusion, eq.
    5); the weights fall towards the edges of a tile, so that no seam is seen.

    Args:
        denoiser: of images of ``size``.
        size: (h, w) of a tile.
        overlap: part of a tile that it shares with the next one, at least.
    """

    def __init__(self, denoiser: Denoiser, size: tuple[int, int], overlap: float = 0.5) -> None:
        self.denoiser, self.size, self.overlap = denoiser, size, overlap
        self.schedule = denoiser.schedule

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        """x (B, c, H, W), H and W at least the tile's."""
        (h, w), weight = self.size, self._weight(x)
        x0, eps, total = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x[:1, :1])
        for top in self._places(x.shape[-2], h):
            for left in self._places(x.shape[-1], w):
                tile = (..., slice(top, top + h), slice(left, left + w))
                prediction = self.denoiser(x[tile], t, cond)
                x0[tile] += weight * prediction.x0
                eps[tile] += weight * prediction.eps
                total[tile] += weight
        return Prediction(x0 / total, eps / total)

    def _places(self, length: int, tile: int) -> list[int]:
        step = max(1, round(tile * (1 - self.overlap)))
        count = 1 + -(-(length - tile) // step)
        return sorted({round(i * (length - tile) / max(1, count - 1)) for i in range(count)})

    def _weight(self, x: Tensor) -> Tensor:
        """(h, w): distance to the nearest edge of the tile, along each side."""
        rows, columns = (torch.arange(1, n + 1).minimum(torch.arange(n, 0, -1)) for n in self.size)
        return (rows[:, None] * columns).to(x)
