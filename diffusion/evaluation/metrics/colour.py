"""Whether images have the colour that their captions name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.evaluation.metrics.base import ImageMetric
from diffusion.evaluation.metrics.side import Side

log = logging.getLogger(__name__)
HUES: Mapping[str, tuple[float, float]] = {
    "red": (340.0, 20.0),
    "yellow": (32.0, 66.0),
    "green": (66.0, 170.0),
    "blue": (180.0, 255.0),
}
UNNAMED = -1.0
"""Of an image whose caption names no colour or several."""


class ColourMetric(ImageMetric):
    """``colour``: the share of images with the hue of their caption's colour, among those whose caption names one.

    An image's hue is that of the mean of its coloured pixels, atan2(sqrt(3) (G - B), 2 R - G - B) in degrees, where a
    pixel is coloured if the largest and the smallest of R, G, B in [0, 1] differ by more than ``chroma``. An image with
    fewer than ``share`` of its pixels coloured has no hue, and so not the one named. Where no caption names a colour
    there is no number.

    Args:
        hues: of each word, from and to in degrees; from 340 to 20 goes through 0.
        chroma: above which a pixel counts.
        share: of the pixels that an image needs.

    Raises:
        ValueError: no hues, a hue outside [0, 360], or a number outside [0, 1].
    """

    better = "higher"
    name = "colour"
    texts = True

    def __init__(self, hues: Mapping[str, Sequence[float]] = HUES, chroma: float = 0.2, share: float = 0.02) -> None:
        self.hues = {word: (float(low), float(high)) for word, (low, high) in hues.items()}
        self.chroma, self.share = chroma, share
        if not self.hues or any(not 0 <= end <= 360 for ends in self.hues.values() for end in ends):
            raise ValueError(
                "a colour metric's hues are words with two angles from 0 to 360 each, such as {red: [340, 20]}, got "
                f"{dict(hues)}; set evaluation.metric.colour.hues"
            )
        for key, value in (("chroma", chroma), ("share", share)):
            if not 0 <= value <= 1:
                raise ValueError(f"evaluation.metric.colour.{key} is from 0 to 1, got {value}")

    def rows(self, images: Tensor, texts: Sequence[str] | None) -> Tensor:
        """1 or 0, or ``UNNAMED``."""
        if texts is None:
            raise ValueError("colour needs captions, and these data have none; leave it out of evaluation.metrics")
        found = hues(images, self.chroma, self.share).tolist()
        rows = []
        for hue, text in zip(found, texts, strict=True):
            named = [ends for word, ends in self.hues.items() if re.search(rf"\b{re.escape(word)}\b", text.casefold())]
            rows.append(float(_within(hue, *named[0])) if len(named) == 1 else UNNAMED)
        return torch.tensor(rows)

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        rows = generated.rows[self.name]
        named = rows[rows != UNNAMED].double()
        if len(named):
            return {self.name: float(named.mean())}
        log.warning("no caption names one of %s: there is no number of colour", ", ".join(self.hues))
        return {}

    def describe(self) -> dict[str, Any]:
        return {
            "hues": {word: list(ends) for word, ends in self.hues.items()},
            "chroma": self.chroma,
            "share": self.share,
        }


def hues(images: Tensor, chroma: float = 0.2, share: float = 0.02) -> Tensor:
    """uint8 (B, C, H, W) -> (B,) degrees in [0, 360); NaN of an image without enough colour."""
    pixels = images.cpu().expand(-1, 3, -1, -1).flatten(2).double() / 255
    coloured = (pixels.amax(1) - pixels.amin(1) > chroma).double()
    red, green, blue = (pixels * coloured[:, None]).sum(-1).unbind(1)
    angle = torch.rad2deg(torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue)) % 360
    return torch.where(coloured.mean(-1) >= max(share, 1 / pixels.shape[-1]), angle, torch.nan)


def _within(hue: float, low: float, high: float) -> bool:
    """Of NaN: no."""
    return low <= hue <= high if low <= high else hue >= low or hue <= high
