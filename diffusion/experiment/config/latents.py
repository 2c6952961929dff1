"""Does a config fit the latents of its autoencoder? Asked as in :mod:`sizes`, before torch or diffusers is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from diffusion.autoencoder import weights

Plain = Mapping[str, Any]

MEASURED = ("DPSGuidance", "InpaintGuidance", "PiGDMGuidance", "RePaintGuidance")
"""Guidance by a measurement of images."""


def has_latents(cfg: Plain) -> bool:
    """Is there an autoencoder that makes something else of an image?"""
    return _part(cfg, "autoencoder").get("pretrained") is not None


def weights_of(cfg: Plain) -> str | None:
    """What reads them must be installed, and a folder must hold them; their own config tells the model's sizes."""
    if not has_latents(cfg):
        return None
    coder = _part(cfg, "autoencoder")
    if find_spec("diffusers") is None:
        return "autoencoder=kl needs diffusers; pip install 'alphabar[latent]'"
    sizes = {key: coder.get(key) for key in ("channels", "factor", "image_channels")}
    try:
        folder = weights.local(str(coder["pretrained"]))
        if folder is not None and all(isinstance(size, int) for size in sizes.values()):
            weights.check(weights.config(folder), **sizes)  # type: ignore[arg-type]
    except ValueError as error:
        return str(error)
    return None


def size_of(cfg: Plain) -> str | None:
    """An image is a whole number of latents."""
    coder, pixels = _part(cfg, "autoencoder"), _part(cfg, "data").get("resolution")
    side, factor = coder.get("resolution"), coder.get("factor")
    if not (isinstance(pixels, int) and isinstance(side, int) and isinstance(factor, int)):
        return None
    if factor < 1 or pixels % factor:
        return (
            f"the autoencoder makes one latent of {factor} x {factor} pixels, and data.resolution is {pixels}; "
            f"set data.resolution to a multiple of {factor}"
        )
    if side * factor != pixels:
        return (
            f"images of {pixels} pixels a side have latents of {pixels // factor}, and autoencoder.resolution is "
            f"{side}; set autoencoder.resolution={pixels // factor}"
        )
    return None


def for_images(cfg: Plain) -> str | None:
    """What speaks of pixels does not understand latents."""
    if not has_latents(cfg):
        return None
    for name, part in _part(cfg, "guidance").items():
        kind = str(part.get("_target_", "")).rpartition(".")[2] if isinstance(part, Mapping) else ""
        limits = (part.get("low"), part.get("high")) if kind == "ClipGuidance" else None
        if limits == (-1, 1) or kind == "DynamicThresholdGuidance":
            return (
                f"guidance={name} holds x_0 in [-1, 1], the range of images, which latents leave; use guidance=none, "
                "or a list without it"
            )
        if kind in MEASURED:
            return (
                f"guidance={name} measures images, and this model runs on an autoencoder's latents; "
                "use a model with autoencoder=identity for it"
            )
    if _part(cfg, "evaluation").get("likelihood") is not None:
        return (
            "bits per dimension are of images, and this model runs on an autoencoder's latents; "
            "leave evaluation/likelihood out"
        )
    return None


def _part(cfg: Plain, room: str) -> Plain:
    part = cfg.get(room)
    return part if isinstance(part, Mapping) else {}
