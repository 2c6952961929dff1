"""Diffusion on embeddings of images, brought to a common scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.describe import key
from diffusion.files import sha256_of
from diffusion.image_encoder import ImageEncoder
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
        run, checkpoint, weights: of a CLIP (:func:`diffusion.load`) that makes the embeddings of a batch's images where
            it has no such column; it is frozen, and ``clip`` is its sha256. ``None``: the data have the column.

    Raises:
        ValueError: sizes or a file that make no sense, or a CLIP of another width or other weights.
        ConfigError: no run folder, or a run of something else.
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
        run: str | None = None,
        checkpoint: str = "last",
        weights: Literal["ema", "raw"] = "ema",
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
        self.encoder: ImageEncoder | None = None
        if run is not None:
            self.encoder = ImageEncoder(run, checkpoint, weights, channels, clip, "autoencoder.channels")
            self.clip = self.encoder.sha256
            self.sha256 = self.clip if self.sha256 is None else key([self.clip, self.sha256])

    def completed(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return batch if self.encoder is None else self.encoder.completed(batch)

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
