"""Latents of a tiny autoencoder, which stands in for a large one where time is short, computed by diffusers."""

from __future__ import annotations

from torch import Tensor

from diffusion.autoencoder.pretrained import PretrainedAutoencoder, beside
from diffusion.types import RandnLike


class TinyAutoencoder(PretrainedAutoencoder):
    """A convolutional autoencoder without a posterior, whose latents are those of the autoencoder that it was distilled
    from, times ``scale``.

    Args:
        pretrained, channels, resolution, factor, image_channels, scale, max_batch, sha256: see
            :class:`PretrainedAutoencoder`.
    """

    option = "tiny"

    def __init__(
        self,
        pretrained: str,
        channels: int = 4,
        resolution: int | None = None,
        factor: int = 8,
        image_channels: int = 3,
        scale: float | None = None,
        max_batch: int = 16,
        sha256: str | None = None,
    ) -> None:
        kind = "AutoencoderTiny"
        super().__init__(kind, pretrained, channels, resolution, factor, image_channels, scale, max_batch, sha256)

    def encode(self, image: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        return self.in_parts(lambda x: self.model.encode(x).latents, image) * beside(self.scale, image)

    def decode(self, latent: Tensor) -> Tensor:
        return self.in_parts(lambda x: self.model.decode(x).sample, latent / beside(self.scale, latent))
