"""Outpainting: the image goes on beyond its edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.editing.base import MaskUse
from diffusion.editing.inpaint import InpaintEdit


class OutpaintEdit(InpaintEdit):
    """The image on a larger canvas, what is new drawn as in :class:`InpaintEdit`.

    Args:
        pixels: of the image that are added: on each side, or [top, right, bottom, left].
        zoom: instead of ``pixels``, how many times larger the canvas is, the image in its middle.
        strength, repeats, jump_length: see :class:`InpaintEdit`; below 1, ``strength`` starts from edges that were
            drawn outwards.

    Raises:
        ValueError: nothing is added, or both are given.
    """

    mask: MaskUse = "none"

    def __init__(
        self,
        pixels: int | list[int] | None = None,
        zoom: float | None = None,
        strength: float = 1.0,
        repeats: int = 10,
        jump_length: int = 10,
    ) -> None:
        super().__init__(strength, repeats, jump_length)
        sides = [pixels] * 4 if isinstance(pixels, int) else pixels
        if (sides is None) == (zoom is None):
            raise ValueError(
                f"outpainting adds pixels or zooms out, one of them, got pixels={pixels} and zoom={zoom}; set "
                "edit.pixels, such as 8 or [0,16,0,16] (top, right, bottom, left), or edit.zoom"
            )
        if sides is not None and (len(sides) != 4 or min(sides) < 0 or max(sides) < 1):
            raise ValueError(
                f"pixels is a number above 0, or four from 0 (top, right, bottom, left), one above 0, got {pixels}; "
                "set edit.pixels"
            )
        if zoom is not None and not 1 < zoom <= 8:
            raise ValueError(f"zoom lies in (1, 8], got {zoom}; set edit.zoom")
        self.pixels, self.zoom = sides, zoom

    def canvas(self, pixels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        height, width = pixels.shape[-2:]
        if self.pixels is not None:
            top, right, bottom, left = self.pixels
        else:
            assert self.zoom is not None
            tall, wide = round(height * self.zoom), round(width * self.zoom)
            top, left = (tall - height) // 2, (wide - width) // 2
            bottom, right = tall - height - top, wide - width - left
        grown = F.pad(pixels[None].float(), (left, right, top, bottom), mode="replicate")[0].to(pixels.dtype)
        new = torch.ones(grown.shape[-2:], dtype=torch.bool)
        new[top : top + height, left : left + width] = False
        return grown, new
