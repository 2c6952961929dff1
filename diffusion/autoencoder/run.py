"""The autoencoder of another run, frozen."""

from __future__ import annotations

from typing import Any, Literal

import diffusion
from diffusion.autoencoder.base import Autoencoder
from diffusion.autoencoder.identity import IdentityAutoencoder
from diffusion.autoencoder.kl import KLAutoencoder


def run_autoencoder(
    run: str,
    checkpoint: str = "last",
    weights: Literal["ema", "raw"] = "ema",
    channels: int = 4,
    resolution: int | None = None,
    factor: int = 8,
    image_channels: int = 3,
    latents: Literal["scale", "channels"] = "scale",
) -> Autoencoder:
    """The autoencoder that a run trained, imported, or was trained in the latents of.

    Args:
        run, checkpoint, weights: see :func:`diffusion.load`.
        channels, resolution: of the latents; the network's config reads their size here.
        factor: pixels of an image for one of a latent, along a side.
        image_channels: of an image.
        latents: "scale" takes them as the run has them, with one scale where it trained the autoencoder; "channels"
            centres and scales each channel by what was measured of it.

    Raises:
        ValueError: a run on images themselves, or sizes that are not the autoencoder's.
        ConfigError: no run folder, or weights that are not this run's.
    """
    load: Any = diffusion.load
    loaded: Any = load(run, checkpoint, weights, kinds=("diffusion", "autoencoder"))
    coder: Any = loaded if isinstance(loaded, Autoencoder) else loaded.autoencoder
    if isinstance(coder, IdentityAutoencoder):
        raise ValueError(
            f"autoencoder.run={run} is a run on images themselves, without an autoencoder; name a run that was trained "
            "with one, such as autoencoder=kl"
        )
    for key, stated in {"channels": channels, "factor": factor, "image_channels": image_channels}.items():
        if stated != getattr(coder, key):
            raise ValueError(
                f"autoencoder.{key} is {stated}, and that of the autoencoder in {run} is {getattr(coder, key)}; "
                f"set {'data.channels' if key == 'image_channels' else f'autoencoder.{key}'}={getattr(coder, key)}"
            )
    if latents not in ("scale", "channels"):
        raise ValueError(f"autoencoder.latents is scale or channels, got {latents!r}")
    if latents == "channels":
        if not isinstance(coder, KLAutoencoder):
            raise ValueError(
                f"autoencoder.latents=channels shifts latents, and that of {run} is no KL autoencoder; use scale"
            )
        coder.scale_channels()
    coder.resolution = resolution
    return coder
