"""An image of which a part is hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.operator.base import Filter, Operator, projected
from diffusion.operator.measurement import read


class MaskOperator(Operator):
    """A x = x where it is seen and 0 where it is hidden; A A^T is the identity on what is seen.

    Args:
        box: what is hidden: [top, left, height, width] in pixels.
        file: instead of a box, an image or tensor whose values above 0 are seen.
        hidden: instead of both, the share of pixels that is hidden, in (0, 1), the same ones in all images.
        seed: of the hidden pixels.
        seen: instead of all, (1, H, W) or one mask for each image (B, 1, H, W), above 0 where it is seen.

    Raises:
        ValueError: none or several of them, or, when called, a box outside the image.
    """

    smooth = True

    def __init__(
        self,
        box: list[int] | None = None,
        file: str | None = None,
        hidden: float | None = None,
        seed: int = 0,
        seen: Tensor | None = None,
    ) -> None:
        given = sum(one is not None for one in (box, file, hidden, seen))
        if given != 1 or (box is not None and (len(box) != 4 or min(box) < 0)):
            raise ValueError(
                "a mask is a hidden box [top, left, height, width], a file or the share of pixels hidden, one of them, "
                f"got box={box}, file={file}, hidden={hidden}; set operator.box, operator.file or operator.hidden"
            )
        if hidden is not None and not 0 < hidden < 1:
            raise ValueError(f"the share of pixels that is hidden lies in (0, 1), got {hidden}; set operator.hidden")
        self.box = box
        self.file = file
        self.hidden, self.seed = hidden, seed
        shown = seen if file is None else read(file).mean(-3, keepdim=True)
        self._seen = None if shown is None else shown > 0

    def seen(self, x: Tensor) -> Tensor:
        """1 where x (B, C, H, W) is seen, else 0; broadcasts against x."""
        return self.once(self._ones_where_seen, x)

    def _ones_where_seen(self, x: Tensor) -> Tensor:
        if self._seen is not None:
            if self._seen.shape[-2:] != x.shape[-2:]:
                raise ValueError(
                    f"the mask {self.file or 'given'} has size {list(self._seen.shape[-2:])} and the images "
                    f"{list(x.shape[-2:])}"
                )
            return self._seen.to(x)
        if self.hidden is not None:
            pixels = x.shape[-2] * x.shape[-1]
            order = torch.randperm(pixels, generator=torch.Generator().manual_seed(self.seed))
            return (order >= round(self.hidden * pixels)).reshape(1, 1, *x.shape[-2:]).to(x)
        assert self.box is not None
        top, left, height, width = self.box
        if top + height > x.shape[-2] or left + width > x.shape[-1]:
            raise ValueError(f"the hidden box {self.box} leaves images of size {list(x.shape[-2:])}; set operator.box")
        seen = torch.ones_like(x[:1, :1])
        seen[..., top : top + height, left : left + width] = 0
        return seen

    def __call__(self, x: Tensor) -> Tensor:
        return self.seen(x) * x

    def adjoint(self, y: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self(y)

    def solve(self, residual: Tensor, spread: float, noise: float) -> Tensor:
        return self.seen(residual) * residual / (spread + noise)

    def spectral(self, f: Filter, x: Tensor) -> Tensor:
        return projected(x, self(x), f, 1.0)
