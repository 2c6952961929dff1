"""Latents of a KL autoencoder (Kingma & Welling 2014; Rombach et al. 2022, section 3.1), computed by diffusers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from torch import Tensor

from diffusion.autoencoder.pretrained import PretrainedAutoencoder, beside, for_channels
from diffusion.autoencoder.trainable import LatentStatistics
from diffusion.types import RandnLike


class KLAutoencoder(PretrainedAutoencoder):
    """z = (sample of the posterior - shift) scale.

    Args:
        shift: of the latents, one or one for each channel; the model's own where ``None``.
        posterior: "sample" draws a latent with the ``randn_like`` that encoding is given, "mode" takes the mean.
        pretrained, channels, resolution, factor, image_channels, scale, max_batch, sha256: see
            :class:`PretrainedAutoencoder`.

    Raises:
        ValueError: as there, and an unknown posterior.
    """

    option = "kl"
    statistics: LatentStatistics | None = None
    """Of the latents, where they were measured here."""

    def __init__(
        self,
        pretrained: str,
        channels: int = 4,
        resolution: int | None = None,
        factor: int = 8,
        image_channels: int = 3,
        scale: float | Sequence[float] | None = None,
        shift: float | Sequence[float] | None = None,
        posterior: Literal["sample", "mode"] = "sample",
        max_batch: int = 16,
        sha256: str | None = None,
    ) -> None:
        if posterior not in ("sample", "mode"):
            raise ValueError(f"autoencoder.posterior is sample or mode, got {posterior!r}")
        super().__init__(
            "AutoencoderKL", pretrained, channels, resolution, factor, image_channels, scale, max_batch, sha256
        )
        self.posterior: str = posterior
        shift = self.model.config.shift_factor if shift is None else shift
        self.shift = None if shift is None else for_channels("shift", shift, channels)

    @classmethod
    def of(
        cls,
        model: Any,
        channels: int,
        factor: int,
        image_channels: int,
        scale: float | Sequence[float],
        sha256: str,
        max_batch: int = 16,
    ) -> Self:
        coder = super().of(model, channels, factor, image_channels, scale, sha256, max_batch)
        coder.posterior, coder.shift = "sample", None
        return coder

    def scale_channels(self) -> None:
        """From here on each channel is centred and scaled by itself, instead of one scale for all.

        Raises:
            ValueError: nothing was measured of the latents.
        """
        if self.statistics is None:
            raise ValueError(
                "autoencoder.latents=channels takes what module=autoencoder measured of its latents, and this "
                "autoencoder was not trained by it; use autoencoder.latents=scale"
            )
        self.shift, self.scale = list(self.statistics.mean), [1 / std for std in self.statistics.std]
        self.sha256 = hashlib.sha256(f"{self.sha256} {self.shift} {self.scale}".encode()).hexdigest()

    def check(self, found: Mapping[str, Any], pretrained: str) -> None:
        if found.get("latents_mean") is not None or found.get("latents_std") is not None:
            raise ValueError(
                f"the autoencoder {pretrained} has a mean and a spread for each channel (latents_mean, latents_std), "
                "which are not applied here; take another, or set both to null in a copy of its config.json"
            )

    def encode(self, image: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        return self.draw(self.moments(image), randn_like)

    def moments(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> mean and log variance of the posterior, one after the other (B, 2c, h, w)."""
        return self.in_parts(lambda x: self.model.encode(x).latent_dist.parameters, image)

    def draw(self, moments: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        """(B, 2c, h, w) -> latents (B, c, h, w)."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        posterior = DiagonalGaussianDistribution(moments)
        z = posterior.mode()
        if self.posterior == "sample" and randn_like is not None:
            z = z + posterior.std * randn_like(z)
        return (z if self.shift is None else z - beside(self.shift, z)) * beside(self.scale, z)

    def decode(self, latent: Tensor) -> Tensor:
        z = latent / beside(self.scale, latent)
        z = z if self.shift is None else z + beside(self.shift, z)
        return self.in_parts(lambda x: self.model.decode(x).sample, z)
