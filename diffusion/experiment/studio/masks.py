"""An image enlarged to be painted on, and what was painted as its mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from diffusion.errors import ConfigError

SIDE = 512
"""Pixels of the longer side of what is painted on, at least."""


def enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """Each pixel as a square of k x k, for a brush -> the image, and k."""
    times = max(1, -(-SIDE // max(image.size)))
    size = (image.width * times, image.height * times)
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST), times


def mask_of(painted: dict[str, Any] | None, size: tuple[int, int]) -> Image.Image | None:
    """What a brush covered, white where the image may change, at (W, H) = ``size``: a pixel of the image may change
    where more than half of its square is covered. ``None`` where nothing is.

    painted: of gradio's editor, whose layers are arrays (h, w, 4).

    Raises:
        ConfigError: everything is covered.
    """
    layers = [np.asarray(layer)[..., 3] > 0 for layer in (painted or {}).get("layers", ())]
    if not layers or not (covered := np.any(layers, axis=0)).any():
        return None
    drawn = Image.fromarray((255 * covered).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    mask = np.asarray(drawn) > 127
    if mask.all():
        raise ConfigError("the mask covers everything; leave something as it is, or draw a new image")
    return Image.fromarray((255 * mask).astype(np.uint8)) if mask.any() else None
