"""Autoencoders of diffusers: frozen, out of the checkpoint, in float32 whatever the precision of the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Self

import torch
from torch import Tensor, nn

from diffusion.autoencoder import weights
from diffusion.autoencoder.base import Autoencoder


class PretrainedAutoencoder(Autoencoder):
    """A model of diffusers that is no part of the module tree: it is neither trained nor averaged, a checkpoint does
    not hold it, and it stays in eval mode. It follows its owner to a device.

    Args:
        kind: the name of its class.
        pretrained: a name of the Hugging Face hub (owner/name, or owner/name/folder), or a folder with ``config.json``
            and ``diffusion_pytorch_model.safetensors``.
        channels, resolution: of the latents; the network's config reads their size here.
        factor: pixels of an image for one of a latent, along a side.
        image_channels: of an image.
        scale: of the latents, one or one for each channel; the model's own where ``None``.
        max_batch: images that are encoded or decoded together, which bounds memory.
        sha256: what the hash of the weights begins with; any weights where ``None``.

    Raises:
        ValueError: no diffusers, no such weights or others, sizes that are not the model's.
    """

    option = ""
    """Of conf/autoencoder."""

    def __init__(
        self,
        kind: str,
        pretrained: str,
        channels: int,
        resolution: int | None,
        factor: int,
        image_channels: int,
        scale: float | Sequence[float] | None,
        max_batch: int,
        sha256: str | None,
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"autoencoder.max_batch is a number of images, at least 1, got {max_batch}")
        if scale is not None and min(each(scale)) <= 0:
            raise ValueError(f"autoencoder.scale is above 0, got {scale}; null takes the model's own")
        super().__init__()
        if find_spec("diffusers") is None:
            raise ValueError(f"autoencoder={self.option} needs diffusers; pip install 'alphabar[latent]'")
        folder = weights.fetched(pretrained)
        found = weights.config(folder)
        weights.check(found, channels=channels, factor=factor, image_channels=image_channels)
        self.check(found, pretrained)
        sha256 = weights.sha256_of(folder, sha256)
        model = _load(kind, str(folder))
        self._take(model, channels, resolution, factor, image_channels, scale, max_batch, sha256)

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
        """With a model that is there, instead of one in a folder.

        sha256: of all that its latents depend on.
        """
        coder = cls.__new__(cls)
        Autoencoder.__init__(coder)
        held = model.requires_grad_(False).eval()
        coder._take(held, channels, None, factor, image_channels, scale, max_batch, sha256)
        return coder

    def _take(
        self,
        model: Any,
        channels: int,
        resolution: int | None,
        factor: int,
        image_channels: int,
        scale: float | Sequence[float] | None,
        max_batch: int,
        sha256: str,
    ) -> None:
        self.sha256 = sha256
        self.channels, self.resolution = channels, resolution
        self.factor, self.image_channels = factor, image_channels
        self.max_batch = max_batch
        self._held = (model,)  # a tuple is no part of the module
        self.scale = for_channels("scale", model.config.scaling_factor if scale is None else scale, channels)

    def check(self, found: Mapping[str, Any], pretrained: str) -> None:
        """Raises:
        ValueError: the model's config has what is not applied here.
        """

    @property
    def model(self) -> Any:
        """The model of diffusers."""
        return self._held[0]

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self._held

    def in_parts(self, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``call`` of ``max_batch`` samples at a time, in the model's precision."""
        with torch.autocast(x.device.type, enabled=False):
            return torch.cat([call(part.to(self.model.dtype)).to(x.dtype) for part in x.split(self.max_batch)])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PretrainedAutoencoder:
        self.model._apply(fn)
        return super()._apply(fn, recurse)


def each(value: float | Sequence[float]) -> list[float]:
    """One number or several, as a list."""
    return [float(x) for x in (value if isinstance(value, Sequence) else [value])]


def for_channels(name: str, value: float | Sequence[float], channels: int) -> float | list[float]:
    """Raises:
    ValueError: other than one number, or one for each channel.
    """
    numbers = each(value)
    if isinstance(value, Sequence) and len(numbers) != channels:
        raise ValueError(f"autoencoder.{name} is a number or one for each of {channels} channels, got {len(numbers)}")
    return numbers if isinstance(value, Sequence) else numbers[0]


def beside(value: float | list[float], latent: Tensor) -> Tensor | float:
    """A number as it is, those of channels (C, 1, 1) beside the latents."""
    return latent.new_tensor(value)[:, None, None] if isinstance(value, list) else value


def _load(kind: str, folder: str) -> Any:
    import diffusers

    with torch.random.fork_rng(devices=[]):  # weights that are overwritten at once are drawn first
        model = getattr(diffusers, kind).from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False)
    return model.requires_grad_(False).eval()
