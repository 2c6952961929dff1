"""Diffusion on embeddings of images, brought to a common scale."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.files import sha256_of
from diffusion.types import RandnLike


class EmbeddingAutoencoder(Autoencoder):
    """The column "image_embedding" (B, E), scaled: (e - mean) scale / std.

    unCLIP multiplies CLIP's embeddings of unit length by 17.2, which gives them the variance of ImageNet's pixels
    (Ramesh et al. 2022, appendix C); Karlo makes each number's mean 0 and its variance 1.

    Args:
        channels: E.
        resolution: 1, a vector has no sides.
        scale: a factor.
        statistics: a safetensors file with "mean" and "std" (E,) of the embeddings; 0 and 1 where ``None``.
        clip: what the sha256 of the encoder begins with that makes the embeddings; a pipeline refuses a stage of
            another. Not checked where ``None``.

    Raises:
        ValueError: sizes or a file that make no sense.
    """

    column = "image_embedding"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int = 768,
        resolution: int = 1,
        scale: float = 17.2,
        statistics: str | None = None,
        clip: str | None = None,
    ) -> None:
        super().__init__()
        if channels < 1 or resolution != 1:
            raise ValueError(
                f"embeddings are vectors of at least 1 number: autoencoder.channels={channels} and "
                f"autoencoder.resolution={resolution}, which is 1 for a vector"
            )
        if not 0 < scale < float("inf"):
            raise ValueError(f"autoencoder.scale is a factor above 0, got {scale}")
        self.channels, self.resolution, self.scale, self.clip = channels, resolution, scale, clip
        mean, std = torch.zeros(channels), torch.ones(channels)
        if statistics is not None:
            mean, std = _read(Path(statistics), channels)
            self.sha256 = sha256_of(Path(statistics))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.channels,)

    def encode(self, image: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        """Embeddings (B, E) -> (B, E) of about unit variance.

        Raises:
            ValueError: they are not of width E.
        """
        if image.ndim != 2 or image.shape[1] != self.channels:
            raise ValueError(
                f"image_embedding is (B, {self.channels}), the column has {tuple(image.shape)}; set "
                "autoencoder.channels to its width"
            )
        return (image.to(self.mean) - self.mean) * (self.scale / self.std)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, E) -> embeddings (B, E)."""
        return latent * (self.std / self.scale).to(latent) + self.mean.to(latent)


def _read(path: Path, channels: int) -> tuple[Tensor, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
        mean, std = found["mean"].float(), found["std"].float()
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(
            f"autoencoder.statistics={path} is no safetensors file with mean and std ({type(error).__name__}); write "
            "one with safetensors.torch.save_file"
        ) from None
    if mean.shape != (channels,) or std.shape != (channels,) or not bool((std > 0).all()):
        raise ValueError(
            f"autoencoder.statistics={path} holds mean {tuple(mean.shape)} and std {tuple(std.shape)} where "
            f"({channels},) is due, each std above 0; set autoencoder.channels, or another file"
        )
    return mean, std
