"""A KL autoencoder that is trained here (Kingma & Welling 2014; Rombach et al. 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.autoencoder.kl import KLAutoencoder
from diffusion.autoencoder.trainable import LatentStatistics, Reconstruction, TrainableAutoencoder
from diffusion.types import RandnLike


class TrainableKL(TrainableAutoencoder):
    """The encoder gives mean and log-variance (clamped to [-30, 20]) of a Gaussian posterior; its penalty is
    ``kl_weight`` times KL(posterior || N(0, 1)) = 1/2 sum (mu^2 + sigma^2 - 1 - log sigma^2), in nats an image.

    Args:
        image_channels, channels, widths, blocks, groups, attention, resolution: see :class:`TrainableAutoencoder`.
        kl_weight: relative to errors that are summed over an image's values, as in the reference.

    Raises:
        ValueError: see there; a negative weight.
    """

    kind = "AutoencoderKL"
    reduction = "sum"

    def __init__(
        self,
        image_channels: int = 3,
        channels: int = 4,
        widths: Sequence[int] = (128, 256, 512, 512),
        blocks: int = 2,
        groups: int = 32,
        attention: bool = True,
        resolution: int | None = None,
        kl_weight: float = 1e-6,
    ) -> None:
        if not kl_weight >= 0:
            raise ValueError(f"autoencoder.kl_weight is at least 0, got {kl_weight}")
        super().__init__(image_channels, channels, widths, blocks, groups, attention, resolution)
        self.kl_weight = kl_weight

    def forward(self, image: Tensor, randn_like: RandnLike | None = None) -> Reconstruction:
        posterior = self.network.encode(image).latent_dist
        latent = posterior.mode()
        if randn_like is not None:
            latent = latent + posterior.std * randn_like(latent)
        kl = posterior.kl()
        return Reconstruction(self.network.decode(latent).sample, self.kl_weight * kl, {"kl": kl})

    def spread(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        posterior = self.network.encode(image).latent_dist
        return posterior.mean, posterior.var

    def held(self, statistics: LatentStatistics, sha256: str) -> Autoencoder:
        sizes = self.channels, self.factor, self.image_channels
        coder = KLAutoencoder.of(self.network, *sizes, statistics.scale, sha256)
        coder.statistics = statistics
        return coder
