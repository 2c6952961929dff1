"""Autoencoders: images in [-1, 1] <-> the latents in which diffusion runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffusion.types import RandnLike


class Autoencoder(nn.Module, ABC):
    """A frozen map between images (B, C, H, W) and latents (B, c, h, w).

    column: of a batch, what is encoded.
    """

    column: str = "image"
    sha256: str | None = None
    """Of the weights; ``None`` where there are none. Checkpoints and fingerprints name them by it, and hold none."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The modules that encode and decode; also those that are no part of this one."""
        return (self,)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Of the latents of what is encoded beside images of this shape (C, H, W); ``None``: as images are encoded."""
        return None

    def completed(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with :attr:`column`, where it can be made of others; as it is where not."""
        return batch

    @abstractmethod
    def encode(self, image: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, c, h, w) of about unit variance.

        randn_like: what a latent with a spread is drawn with; its middle where ``None``.
        """

    def moments(self, image: Tensor) -> Tensor:
        """(B, C, H, W) -> what :meth:`draw` makes the latents of, as often as is wanted; the latents where they are
        not drawn."""
        return self.encode(image)

    def draw(self, moments: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        """What :meth:`encode` gives for images with these moments."""
        return moments

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, C, H, W) in about [-1, 1]."""
