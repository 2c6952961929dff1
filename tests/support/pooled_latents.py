"""An autoencoder without weights, in the place of one that is trained first."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.types import RandnLike


class PooledAutoencoder(Autoencoder):
    """Means over squares of ``factor`` pixels, the first of them once more where latents have more channels."""

    def __init__(self, channels: int, resolution: int, factor: int) -> None:
        super().__init__()
        self.channels, self.resolution, self.factor = channels, resolution, factor

    def encode(self, image: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        pooled = F.avg_pool2d(image, self.factor)
        return pooled[:, [i % pooled.shape[1] for i in range(self.channels)]]

    def decode(self, latent: Tensor) -> Tensor:
        return F.interpolate(latent[:, :3], scale_factor=self.factor)
