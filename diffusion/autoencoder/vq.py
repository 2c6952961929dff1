"""Latents of a VQ autoencoder (van den Oord et al. 2017; Rombach et al. 2022, section 3.1), computed by diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffusion.autoencoder.pretrained import PretrainedAutoencoder, beside
from diffusion.types import RandnLike


class VQAutoencoder(PretrainedAutoencoder):
    """z = scale times what the encoder gives, before it is quantised: quantisation is the decoder's first step, so that
    diffusion runs on what is continuous, and what it draws is moved to the nearest entries of the codebook.

    Args:
        pretrained, channels, resolution, factor, image_channels, scale, max_batch, sha256: see
            :class:`PretrainedAutoencoder`.
    """

    option = "vq"

    def __init__(
        self,
        pretrained: str,
        channels: int = 3,
        resolution: int | None = None,
        factor: int = 4,
        image_channels: int = 3,
        scale: float | None = 1.0,
        max_batch: int = 16,
        sha256: str | None = None,
    ) -> None:
        super().__init__("VQModel", pretrained, channels, resolution, factor, image_channels, scale, max_batch, sha256)

    def check(self, found: Mapping[str, Any], pretrained: str) -> None:
        if found.get("lookup_from_codebook"):
            raise ValueError(f"the autoencoder {pretrained} decodes indices of its codebook, not latents; take another")

    def encode(self, image: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        return self.in_parts(lambda x: self.model.encode(x).latents, image) * beside(self.scale, image)

    def decode(self, latent: Tensor) -> Tensor:
        return self.in_parts(lambda x: self.model.decode(x).sample, latent / beside(self.scale, latent))
