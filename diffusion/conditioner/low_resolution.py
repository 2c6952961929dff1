"""A small image of the same content, for networks that enlarge it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.conditioner.base import Conditioner, check_drop
from diffusion.randomness import Randomness
from diffusion.types import Cond, expand

TOLD = 1000.0
"""The number "noise" is this times the level, so that sinusoids tell levels apart as they do the indices of a table."""


class LowResolutionConditioner(Conditioner):
    """The column "low_resolution", enlarged to the size of what is denoised and concatenated to it (SR3, Saharia et al.
    2021; Dhariwal & Nichol 2021, section 4.3).

    Where a batch has no such column it is made of its images. In training it is degraded, so that a cascade's upsampler
    bears with images that a model drew (Ho et al. 2022, section 4): blurred (unCLIP, Ramesh et al. 2022, appendix C),
    or noised, sqrt(1 - s^2) y + s eps at a level s drawn for each sample, which is told to a network that embeds the
    number "noise" (Saharia et al. 2022, section 2.3). An optional column "low_resolution.noise" (B,) holds the level of
    images that are noised already; elsewhere it is 0.

    Args:
        image_channels: of the image.
        factor: side of the image over that of the low-resolution one, which is made with it.
        latent_factor: side of the image over that of what is denoised; a divisor of ``factor``.
        reduced: "area", means of ``factor`` x ``factor`` pixels, or "bicubic", antialiased as Pillow's.
        enlarged: "bilinear" (guided-diffusion), "bicubic" (Karlo, with Pillow's coefficients) or "nearest".
        blur: standard deviation of a Gaussian kernel in pixels of the low-resolution image, 0 for none; in training.
        blur_size: side of the kernel, odd.
        noise: the largest level s, 0 for none; levels are uniform in [0, noise], in training.
        numbers: that the network embeds; the level is told where "noise" is among them.
        drop: probability of training without the image, which is zeros then.

    Raises:
        ValueError: sizes or probabilities that make no sense.
    """

    columns = ("low_resolution",)

    def __init__(
        self,
        image_channels: int = 3,
        factor: int = 4,
        latent_factor: int = 1,
        reduced: Literal["area", "bicubic"] = "bicubic",
        enlarged: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
        blur: float = 0.6,
        blur_size: int = 3,
        noise: float = 0.0,
        numbers: Sequence[str] = (),
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        for key, value in {"factor": factor, "latent_factor": latent_factor, "blur_size": blur_size}.items():
            if value < 1:
                raise ValueError(f"conditioner.{key} is at least 1, got {value}")
        if factor % latent_factor:
            raise ValueError(
                f"conditioner.factor={factor} is no multiple of conditioner.latent_factor={latent_factor}, so that the "
                f"image cannot be enlarged to the latents' size; set conditioner.factor to a multiple"
            )
        if blur_size % 2 == 0:
            raise ValueError(f"a kernel has a middle: conditioner.blur_size is odd, got {blur_size}")
        if not 0 <= blur < float("inf"):
            raise ValueError(f"conditioner.blur is a standard deviation in pixels, 0 for none, got {blur}")
        if not 0 <= noise <= 1:
            raise ValueError(f"conditioner.noise is a level in [0, 1], 0 for none, got {noise}")
        if reduced not in ("area", "bicubic"):
            raise ValueError(f"conditioner.reduced is area or bicubic, got {reduced!r}")
        if enlarged not in ("bilinear", "bicubic", "nearest"):
            raise ValueError(f"conditioner.enlarged is bilinear, bicubic or nearest, got {enlarged!r}")
        check_drop(drop)
        self.image_channels, self.factor, self.latent_factor = image_channels, factor, latent_factor
        self.reduced, self.enlarged, self.drop = reduced, enlarged, drop
        self.blur, self.blur_size, self.noise = blur, blur_size, noise
        self.told = "noise" in numbers

    def completed(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        if "low_resolution" in batch or "image" not in batch:
            return batch
        return {**batch, "low_resolution": self.reduce(batch["image"])}

    def forward(self, batch: Mapping[str, Any]) -> Cond:
        """batch["low_resolution"] (B, C, h, w) in [-1, 1] -> image (B, C, h factor / latent_factor, ...), and zeros as
        its null.

        Raises:
            ValueError: no images, or of other channels.
        """
        low = batch["low_resolution"]
        if not isinstance(low, Tensor) or low.ndim != 4 or not low.dtype.is_floating_point:
            kind = f"{low.dtype} {tuple(low.shape)}" if isinstance(low, Tensor) else type(low).__name__
            raise ValueError(f"low_resolution is images (B, C, h, w) in [-1, 1], the column has {kind}")
        if low.shape[1] != self.image_channels:
            raise ValueError(
                f"low_resolution has {low.shape[1]} channels, and conditioner.image_channels is "
                f"{self.image_channels}; give images with as many"
            )
        image = self.enlarge(low)
        level = batch.get("low_resolution.noise", low.new_zeros(len(low)))
        numbers = {"noise": TOLD * level.to(low)} if self.told else {}
        return Cond(image=image, numbers=numbers, null=Cond(image=torch.zeros_like(image)))

    def degraded(self, cond: Cond, randomness: Randomness) -> Cond:
        assert cond.source is not None  # a call keeps its columns
        if not self.blur and not self.noise:
            return cond
        low = cond.source["low_resolution"]
        if self.blur:
            low = blurred(low, self.blur, self.blur_size)
        batch = {**cond.source, "low_resolution": low}
        if self.noise:
            level = self.noise * randomness.rand().to(low.device)
            batch |= self.noised(low, level, randomness.randn_like(low))
        return self(batch)

    def noised(self, low: Tensor, level: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """The columns of low-resolution images (B, C, h, w) at levels s (B,): sqrt(1 - s^2) low + s eps."""
        alpha, sigma = (1 - level**2).sqrt(), level
        return {
            "low_resolution": expand(alpha, low).to(low) * low + expand(sigma, low).to(low) * eps,
            "low_resolution.noise": level.to(low),
        }

    def reduce(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, C, H / factor, W / factor).

        Raises:
            ValueError: sides that are no multiples of ``factor``.
        """
        height, width = image.shape[2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"images of {height} x {width} cannot be made {self.factor} times smaller; set conditioner.factor to a "
                "divisor of data.resolution"
            )
        if self.reduced == "area":
            return F.avg_pool2d(image, self.factor)
        size = (height // self.factor, width // self.factor)
        return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(-1, 1)

    def enlarge(self, low: Tensor) -> Tensor:
        """Low-resolution images -> the size of what is denoised."""
        by = self.factor // self.latent_factor
        if by == 1:
            return low
        size = (low.shape[2] * by, low.shape[3] * by)
        if self.enlarged == "bicubic":
            return F.interpolate(low, size, mode="bicubic", antialias=True)
        return F.interpolate(low, size, mode=self.enlarged)


def blurred(image: Tensor, std: float, size: int) -> Tensor:
    """(B, C, H, W) convolved with a Gaussian kernel of ``size`` x ``size`` pixels, mirrored at the edges."""
    at = torch.arange(size, dtype=image.dtype, device=image.device) - size // 2
    row = torch.exp(-0.5 * (at / std) ** 2)
    kernel = torch.outer(row, row) / row.sum() ** 2
    edge = size // 2
    padded = F.pad(image, (edge, edge, edge, edge), mode="reflect")
    channels = image.shape[1]
    return F.conv2d(padded, kernel.expand(channels, 1, size, size), groups=channels)
