"""Resampling by a short filter that keeps what cannot be represented out of the result."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Fir(nn.Module):
    """Half or twice the size through a separable finite impulse response (Zhang 2019; Song et al. 2021, appendix H.1).

    [1, 3, 3, 1] is StyleGAN2's (Karras et al. 2020), [1, 1] the mean of four pixels and repetition. Zeros lie beyond
    the edges, as in the papers' networks; inside, a constant stays what it is.

    taps: of one axis, an even number of them, scaled to sum 1.

    Raises:
        ValueError: an odd number of taps, or a sum of 0.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float]) -> None:
        super().__init__()
        if not taps or len(taps) % 2 or sum(taps) == 0:
            raise ValueError(
                f"a filter between two sizes has an even number of taps whose sum is not 0, got {list(taps)}; "
                "set network.taps, such as [1, 3, 3, 1]"
            )
        line = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        self.register_buffer("kernel", torch.outer(line, line)[None, None], persistent=False)
        self.margin = len(taps) // 2 - 1

    def down(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        return self._convolve(x, stride=2, padding=self.margin)

    def up(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        kernel = self._of(x) * 4  # three of four pixels are zeros before the filter
        return F.conv_transpose2d(x, kernel, stride=2, padding=self.margin, groups=x.shape[1])

    def blur(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H + 1, W + 1): what a 3x3 convolution of stride 2 without padding halves exactly."""
        return self._convolve(x, stride=1, padding=self.margin + 1)

    def _convolve(self, x: Tensor, stride: int, padding: int) -> Tensor:
        return F.conv2d(x, self._of(x), stride=stride, padding=padding, groups=x.shape[1])

    def _of(self, x: Tensor) -> Tensor:
        """The kernel for each channel of x."""
        return self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
