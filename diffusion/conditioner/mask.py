"""The rest of an image as a condition, for networks that fill what is hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion.conditioner.base import Conditioner, check_drop
from diffusion.randomness import Randomness
from diffusion.types import Cond


class MaskConditioner(Conditioner):
    """A mask and what it leaves of the image, concatenated to what is denoised: a model of images given their rest
    (GLIDE, Nichol et al. 2022, section 2.5; Palette, Saharia et al. 2022). A model of latents is given the mask at its
    own size, of each latent that of its first pixel, and the rest encoded by its autoencoder, as Stable Diffusion's
    models for inpainting are (Rombach et al. 2022, section 4.5).

    In training each image gets a box of its own, its sides uniform shares of the image's and its place uniform; a share
    of the images is hidden altogether, so that the model draws without an image too. Where a batch has no column "mask"
    the middle is hidden, half of each side: what grids and scores are drawn for. The null hides everything.

    Args:
        image_channels: of the condition: those of what is denoised and one of the mask.
        factor: side of the image over that of what is denoised, 1 without an autoencoder.
        least, most: sides of a box in training, as shares of the image's, 0 < least <= most <= 1.
        everything: share of the images that training hides altogether.
        drop: probability of training with the null.

    Raises:
        ValueError: shares or probabilities that make no sense.
    """

    columns = ("image",)
    optional = ("mask",)

    def __init__(
        self,
        image_channels: int = 4,
        factor: int = 1,
        least: float = 0.25,
        most: float = 0.75,
        everything: float = 0.1,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if image_channels < 2:
            raise ValueError(f"conditioner.image_channels counts the image's and one of the mask, got {image_channels}")
        if factor < 1:
            raise ValueError(f"conditioner.factor is at least 1, got {factor}")
        if not 0 < least <= most <= 1:
            raise ValueError(
                f"a box's sides are shares of the image's, 0 < least <= most <= 1, got {least} and {most}; set "
                "conditioner.least and conditioner.most"
            )
        if not 0 <= everything <= 1:
            raise ValueError(f"conditioner.everything is a share in [0, 1], got {everything}")
        check_drop(drop)
        self.image_channels, self.least, self.most, self.everything = image_channels, least, most, everything
        self.factor, self.drop = factor, drop
        self._encode: tuple[Callable[[Tensor], Tensor], ...] = ()

    def bind(self, encode: Callable[[Tensor], Tensor]) -> None:
        self._encode = (encode,)  # a tuple is no part of the module

    def completed(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        if "mask" in batch or "image" not in batch:
            return batch
        image = batch["image"]
        half = torch.full((len(image),), 0.5, device=image.device)
        return {**batch, "mask": boxes(half, half, half, half, image.shape[-2:])}

    def forward(self, batch: Mapping[str, Any]) -> Cond:
        """batch["image"] (B, C, H, W) in [-1, 1] or uint8, batch["mask"] (B, 1, H, W), above 0 where it is hidden ->
        image (B, 1 + C, H, W): the mask as 0 and 1, and the image with 0 in its place; on latents (B, 1 + c, h, w).

        Raises:
            ValueError: an image of other channels, a mask of another size, or no autoencoder for a factor above 1.
        """
        image, mask = batch["image"], batch["mask"]
        if mask.shape != (len(image), 1, *image.shape[-2:]):
            raise ValueError(
                f"the mask of images {tuple(image.shape)} has one channel and their size, got {tuple(mask.shape)}"
            )
        x = image / 127.5 - 1 if image.dtype == torch.uint8 else image
        hidden = (mask > 0).to(x)
        seen, nothing = self._shown((1 - hidden) * x), self._shown(torch.zeros_like(x[:1])).expand(len(x), -1, -1, -1)
        if seen.shape[1] + 1 != self.image_channels:
            raise ValueError(
                f"what is denoised has {seen.shape[1]} channels, and conditioner.image_channels={self.image_channels} "
                "is that and one; give images with as many, or set it"
            )
        hidden = hidden[..., :: self.factor, :: self.factor]
        null = torch.cat([torch.ones_like(hidden), nothing], dim=1)
        return Cond(image=torch.cat([hidden, seen], dim=1), null=Cond(image=null))

    def _shown(self, image: Tensor) -> Tensor:
        """An image where diffusion runs."""
        if self.factor == 1:
            return image
        if not self._encode:
            raise ValueError(
                f"conditioner.factor={self.factor} is of latents, and nothing encodes images; give the conditioner to "
                "a DiffusionModel with its autoencoder"
            )
        with torch.no_grad():
            return self._encode[0](image)

    def degraded(self, cond: Cond, randomness: Randomness) -> Cond:
        assert cond.source is not None  # a call keeps its columns
        image = cond.source["image"]
        whole, *draws = (randomness.rand().to(image.device) for _ in range(5))
        tall, wide = (self.least + (self.most - self.least) * u for u in draws[:2])
        mask = boxes(tall, wide, draws[2], draws[3], image.shape[-2:])
        mask |= (whole < self.everything)[:, None, None, None]
        return self({**cond.source, "mask": mask})


def boxes(tall: Tensor, wide: Tensor, down: Tensor, right: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Sides (B,) as shares of ``size`` (H, W), and places (B,) from 0, at the top or left edge, to 1, at the other ->
    bool (B, 1, H, W), true for the pixels whose middle lies inside."""

    def along(side: Tensor, place: Tensor, pixels: int) -> Tensor:
        at = (torch.arange(pixels, device=side.device) + 0.5) / pixels
        start = (place * (1 - side))[:, None]
        return (at >= start) & (at < start + side[:, None])

    rows, columns = along(tall, down, size[0]), along(wide, right, size[1])
    return (rows[:, :, None] & columns[:, None, :])[:, None]
