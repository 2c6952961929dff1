"""An image of any size, brought to the size at which a model edits it, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Frame:
    """Where an image (H, W) lies in the frame (h, w) that a model edits: as large as it fits, in the middle, its edges
    going on in the margins.

    size: (H, W). frame: (h, w).
    """

    size: tuple[int, int]
    frame: tuple[int, int]

    @property
    def inner(self) -> tuple[int, int]:
        """(h, w) of the image in the frame."""
        ratio = min(f / s for f, s in zip(self.frame, self.size, strict=True))
        tall, wide = (max(1, min(f, round(s * ratio))) for f, s in zip(self.frame, self.size, strict=True))
        return tall, wide

    @property
    def resampled(self) -> bool:
        """Is the image edited in another number of pixels?"""
        return self.inner != self.size

    @property
    def padded(self) -> bool:
        """Are there margins?"""
        return self.inner != self.frame

    def into(self, pixels: Tensor) -> Tensor:
        """uint8 (C, H, W) -> (C, h, w)."""
        return F.pad(resize(pixels, self.inner)[None].float(), self._margins(), mode="replicate")[0].to(torch.uint8)

    def mask_into(self, mask: Tensor) -> Tensor:
        """bool (H, W) -> (h, w): a pixel of the frame may change where it holds one of the image that may, and in the
        margins."""
        shares = F.interpolate(mask[None, None].float(), size=self.inner, mode="area")[0, 0]
        return F.pad(shares > 0, self._margins(), value=True)

    def back(self, drawn: Tensor) -> Tensor:
        """uint8 (C, k h, k w) -> (C, k H, k W): what a model made of the frame, k times as large, without margins."""
        scale = drawn.shape[-1] // self.frame[1]
        left, _, top, _ = self._margins()
        tall, wide = self.inner
        cut = drawn[..., scale * top : scale * (top + tall), scale * left : scale * (left + wide)]
        return resize(cut, (scale * self.size[0], scale * self.size[1]))

    def _margins(self) -> tuple[int, int, int, int]:
        """(left, right, top, bottom)."""
        (tall, wide), (h, w) = self.inner, self.frame
        left, top = (w - wide) // 2, (h - tall) // 2
        return left, w - wide - left, top, h - tall - top


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (C, H, W) -> (C, h, w), bicubic with antialiasing; the very pixels where the size is the same."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    out = F.interpolate(pixels[None].float(), size=size, mode="bicubic", antialias=True, align_corners=False)[0]
    return out.round().clamp(0, 255).to(torch.uint8)


def paste(edited: Tensor, original: Tensor, mask: Tensor, feather: int = 0) -> Tensor:
    """What the mask bool (H, W) covers of ``edited`` uint8 (C, H, W) over ``original``, whose other pixels stay the
    very bits that they were.

    feather: width in pixels of the seam inside the mask, along which the one turns into the other.
    """
    weight = seam(mask[None, None].float(), feather)[0]
    mixed = (weight * edited.float() + (1 - weight) * original.float()).round().clamp(0, 255).to(torch.uint8)
    return torch.where(mask, mixed, original)


def seam(mask: Tensor, width: int) -> Tensor:
    """A mask of 0 and 1 (B, 1, H, W) that falls to 0 over ``width`` pixels inside of its edge; 0 or 1 leaves it."""
    steps = [mask]
    for _ in range(1, width):
        steps.append(-F.max_pool2d(F.pad(-steps[-1], (1, 1, 1, 1), mode="replicate"), 3, stride=1))
    return torch.stack(steps).mean(0)
