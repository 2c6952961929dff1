"""Latents of a KL autoencoder (Kingma & Welling 2014; Rombach et al. 2022, section 3.1), computed by diffusers."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion.autoencoder import weights
from diffusion.autoencoder.base import Autoencoder
from diffusion.types import RandnLike


class KLAutoencoder(Autoencoder):
    """z = (sample of the posterior - shift) scale, in float32 whatever the precision of the training.

    The model is no part of the module tree: it is neither trained nor averaged, a checkpoint does not hold it, and it
    stays in eval mode. It follows its owner to a device.

    Args:
        pretrained: a name of the Hugging Face hub (owner/name, or owner/name/folder), or a folder with ``config.json``
            and ``diffusion_pytorch_model.safetensors``.
        channels, resolution: of the latents; the network's config reads their size here.
        factor: pixels of an image for one of a latent, along a side.
        image_channels: of an image.
        scale, shift: of the latents; the model's own where ``None``.
        posterior: "sample" draws a latent with the ``randn_like`` that encoding is given, "mode" takes the mean.
        max_batch: images that are encoded or decoded together, which bounds memory.
        sha256: what the hash of the weights begins with; any weights where ``None``.

    Raises:
        ValueError: no diffusers, no such weights or others, sizes that are not the model's.
    """

    def __init__(
        self,
        pretrained: str,
        channels: int = 4,
        resolution: int | None = None,
        factor: int = 8,
        image_channels: int = 3,
        scale: float | None = None,
        shift: float | None = None,
        posterior: Literal["sample", "mode"] = "sample",
        max_batch: int = 16,
        sha256: str | None = None,
    ) -> None:
        if posterior not in ("sample", "mode"):
            raise ValueError(f"autoencoder.posterior is sample or mode, got {posterior!r}")
        if max_batch < 1:
            raise ValueError(f"autoencoder.max_batch is a number of images, at least 1, got {max_batch}")
        if scale is not None and scale <= 0:
            raise ValueError(f"autoencoder.scale is above 0, got {scale}; null takes the model's own")
        super().__init__()
        if find_spec("diffusers") is None:
            raise ValueError("autoencoder=kl needs diffusers; pip install 'alphabar[latent]'")
        folder = weights.fetched(pretrained)
        found = weights.config(folder)
        weights.check(found, channels=channels, factor=factor, image_channels=image_channels)
        if found.get("latents_mean") is not None or found.get("latents_std") is not None:
            raise ValueError(
                f"the autoencoder {pretrained} has a mean and a spread for each channel (latents_mean, latents_std), "
                "which are not applied here; take another, or set both to null in a copy of its config.json"
            )
        self.sha256 = weights.sha256_of(folder, sha256)
        self.channels, self.resolution = channels, resolution
        self.factor, self.image_channels = factor, image_channels
        self.posterior, self.max_batch = posterior, max_batch
        self._held = (_load(str(folder)),)  # a tuple is no part of the module
        own = self.model.config
        self.scale = float(own.scaling_factor if scale is None else scale)
        self.shift = own.shift_factor if shift is None else shift

    @property
    def model(self) -> Any:
        """Diffusers' AutoencoderKL."""
        return self._held[0]

    def encode(self, image: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        return self.draw(self.moments(image), randn_like)

    def moments(self, image: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> mean and log variance of the posterior, one after the other (B, 2c, h, w)."""
        return self._in_parts(lambda x: self.model.encode(x).latent_dist.parameters, image)

    def draw(self, moments: Tensor, randn_like: RandnLike | None = None) -> Tensor:
        """(B, 2c, h, w) -> latents (B, c, h, w)."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        posterior = DiagonalGaussianDistribution(moments)
        z = posterior.mode()
        if self.posterior == "sample" and randn_like is not None:
            z = z + posterior.std * randn_like(z)
        return (z if self.shift is None else z - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        z = latent / self.scale
        return self._in_parts(lambda x: self.model.decode(x).sample, z if self.shift is None else z + self.shift)

    def _in_parts(self, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([call(part.to(self.model.dtype)).to(x.dtype) for part in x.split(self.max_batch)])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KLAutoencoder:
        self.model._apply(fn)
        return super()._apply(fn, recurse)


def _load(folder: str) -> Any:
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):  # weights that are overwritten at once are drawn first
        model = AutoencoderKL.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    return model.requires_grad_(False).eval()
