"""An image of which a part is hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.operator.base import Operator
from diffusion.operator.measurement import read


class MaskOperator(Operator):
    """A x = x where it is seen and 0 where it is hidden; A A^T is the identity on what is seen.

    Args:
        box: what is hidden: [top, left, height, width] in pixels.
        file: instead of a box, an image or tensor whose values above 0 are seen.

    Raises:
        ValueError: neither or both of them, or, when called, a box outside the image.
    """

    def __init__(self, box: list[int] | None = None, file: str | None = None) -> None:
        if (box is None) == (file is None) or (box is not None and (len(box) != 4 or min(box) < 0)):
            raise ValueError(
                "a mask is a hidden box [top, left, height, width] or a file, one of them, got "
                f"box={box}, file={file}; set operator.box or operator.file"
            )
        self.box = box
        self.file = file
        self._seen = None if file is None else (read(file).mean(-3, keepdim=True) > 0)

    def seen(self, x: Tensor) -> Tensor:
        """1 where x (B, C, H, W) is seen, else 0; broadcasts against x."""
        if self._seen is not None:
            if self._seen.shape[-2:] != x.shape[-2:]:
                raise ValueError(
                    f"the mask {self.file} has size {list(self._seen.shape[-2:])} and the images {list(x.shape[-2:])}"
                )
            return self._seen.to(x)
        assert self.box is not None
        top, left, height, width = self.box
        if top + height > x.shape[-2] or left + width > x.shape[-1]:
            raise ValueError(f"the hidden box {self.box} leaves images of size {list(x.shape[-2:])}; set operator.box")
        seen = torch.ones_like(x[:1, :1])
        seen[..., top : top + height, left : left + width] = 0
        return seen

    def __call__(self, x: Tensor) -> Tensor:
        return self.seen(x) * x

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        return self.seen(residual) * residual / (spread + noise)
