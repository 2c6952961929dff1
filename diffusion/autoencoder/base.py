"""Autoencoders: pictures in [-1, 1] <-> the latents in which diffusion runs."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Autoencoder(nn.Module, ABC):
    """A frozen map between pictures (B, C, H, W) and latents (B, c, h, w)."""

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, c, h, w) of about unit variance."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, C, H, W) in about [-1, 1]."""
