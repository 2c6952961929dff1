"""Diffusion on the images themselves."""

from __future__ import annotations

from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.types import RandnLike


class IdentityAutoencoder(Autoencoder):
    """Latents are the images.

    channels, resolution: of the data; the network's config reads the latents' size here, whatever the autoencoder.
    """

    def __init__(self, channels: int | None = None, resolution: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.resolution = resolution

    def encode(self, image: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        return image

    def decode(self, latent: Tensor) -> Tensor:
        return latent
