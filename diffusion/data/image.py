"""Decoding of an image file of any kind and size to one uint8 array of a given shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from diffusion.errors import DataError
from diffusion.image_file import read_image

FILTERS = tuple(member.name.lower() for member in Image.Resampling)
CROPS = ("center", "none")
ENLARGED = "are smaller than data.resolution and were enlarged"
ANIMATED = "have several frames, of which the first was read"


@dataclass(frozen=True, slots=True)
class Decoder:
    """Reads an image (:func:`diffusion.image_file.read_image`): composited on a background where transparent, cut,
    resized.

    channels: 1 (grey) or 3 (RGB).
    crop: "center" cuts the middle square, "none" fits the whole image and fills up with the background.
    filter: of Pillow's resizing: nearest, box, bilinear, hamming, bicubic, lanczos.
    background: a colour name or "#rrggbb".
    box: (left, top, right, bottom) cut before anything else, or ``None``.

    Raises:
        DataError: a setting that is none of these.
    """

    channels: int
    resolution: int
    crop: str = "center"
    filter: str = "lanczos"
    background: str = "white"
    box: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise DataError(f"images are read with 1 (grey) or 3 (RGB) channels, got data.channels={self.channels}")
        for key, value, known in (("crop", self.crop, CROPS), ("filter", self.filter, FILTERS)):
            if value not in known:
                raise DataError(f"data.{key} is one of {', '.join(known)}, got {value!r}")
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise DataError(
                f"data.background is a colour name or '#rrggbb', got {self.background!r}; try data.background=white"
            ) from None

    def __call__(self, path: Path) -> np.ndarray:
        """(C, H, W) uint8.

        Raises:
            DataError: the file cannot be read.
        """
        return self.decode(path)[0]

    def decode(self, path: Path) -> tuple[np.ndarray, list[str]]:
        """(C, H, W) uint8, and what a user should know of it: ``ENLARGED``, ``ANIMATED``.

        Raises:
            DataError: the file cannot be read.
        """
        image = read_image(path)
        notes = [ANIMATED] if image.info["animated"] else []
        image = self._flat(image)
        if self.box is not None:
            image = image.crop(self.box)
        square = (self.resolution, self.resolution)
        if image.size != square:
            method = Image.Resampling[self.filter.upper()]
            fitted = min(image.size) if self.crop == "center" else max(image.size)
            notes += [ENLARGED] if fitted < self.resolution else []
            if self.crop == "center":
                image = ImageOps.fit(image, square, method)
            else:
                image = ImageOps.pad(image, square, method, color=self._background(image.mode))
        array = np.asarray(image)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1), notes

    def _flat(self, image: Image.Image) -> Image.Image:
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, self.background), image)
        return image.convert("L" if self.channels == 1 else "RGB")

    def _background(self, mode: str) -> int | tuple[int, ...]:
        return ImageColor.getcolor(self.background, mode)
