"""Random parts of training images, for networks without a global view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion.augmentation.base import Augmentation
from diffusion.randomness import Randomness


class CropAugmentation(Augmentation):
    """A square of ``share`` of the side at a random place, and the same part of a column "low_resolution".

    unCLIP's upsamplers are trained so and applied to whole images (Ramesh et al. 2022, section 2.1 and table 3, where
    the share is 1/4): their convolutions do not depend on the size. The network is not told where a part lies.

    Args:
        share: side of the part over that of the image.

    Raises:
        ValueError: a share that is not in (0, 1].
    """

    dim = 0

    def __init__(self, share: float = 0.25) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"a crop is a share of an image's side in (0, 1], got {share}; set augmentation.share")
        self.share = share

    def __call__(self, image: Tensor, randomness: Randomness) -> tuple[Tensor, None]:
        """image (B, C, H, W) -> (B, C, share H, share W)."""
        return self._crop(image, *self._places(image, randomness, 1)), None

    def batch(self, batch: Mapping[str, Any], randomness: Randomness) -> tuple[dict[str, Any], None]:
        image, low = batch["image"], batch.get("low_resolution")
        if low is None:
            return {**batch, "image": self(image, randomness)[0]}, None
        ratio = image.shape[-1] // low.shape[-1]
        if ratio * low.shape[-1] != image.shape[-1] or ratio * low.shape[-2] != image.shape[-2]:
            raise ValueError(
                f"images of {image.shape[-1]} pixels a side are no multiple of their low-resolution images' "
                f"{low.shape[-1]}, so that no part of both is the same; use augmentation=none"
            )
        top, left = self._places(image, randomness, ratio)
        small = self._crop(low, top // ratio, left // ratio)
        return {**batch, "image": self._crop(image, top, left), "low_resolution": small}, None

    def _places(self, image: Tensor, randomness: Randomness, ratio: int) -> tuple[Tensor, Tensor]:
        """(B,) rows and columns where the parts begin, multiples of ``ratio``."""
        sides = [self._side(size) for size in image.shape[-2:]]
        if any(side % ratio for side in sides):
            raise ValueError(
                f"parts of {sides} pixels are no multiple of {ratio}, the side of an image over that of its "
                "low-resolution one; set augmentation.share"
            )
        free = [(size - side) // ratio + 1 for size, side in zip(image.shape[-2:], sides, strict=True)]
        top, left = ((randomness.rand() * count).long().clamp_(max=count - 1) * ratio for count in free)
        return top.to(image.device), left.to(image.device)

    def _side(self, size: int) -> int:
        side = self.share * size
        if side < 1 or side % 1:
            raise ValueError(
                f"{self.share} of {size} pixels is no whole number of them; set augmentation.share or data.resolution"
            )
        return int(side)

    def _crop(self, image: Tensor, top: Tensor, left: Tensor) -> Tensor:
        height, width = (self._side(size) for size in image.shape[-2:])
        rows = top[:, None, None] + torch.arange(height, device=image.device)[:, None]
        columns = left[:, None, None] + torch.arange(width, device=image.device)
        sample = torch.arange(len(image), device=image.device)[:, None, None]
        return image[sample, :, rows, columns].permute(0, 3, 1, 2).contiguous()
