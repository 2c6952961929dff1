"""Decoding of an image file of any kind and size to one uint8 array of a given shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageColor, ImageOps

from diffusion.errors import DataError
from diffusion.image_file import Encoded, read_image

FILTERS = tuple(member.name.lower() for member in Image.Resampling)
CROPS = ("center", "random", "none")
ENLARGED = "are smaller than data.resolution and were enlarged"
ANIMATED = "have several frames, of which the first was read"


@dataclass(frozen=True, slots=True)
class Decoder:
    """Reads an image (:func:`diffusion.image_file.read_image`): composited on a background where transparent, cut,
    resized.

    channels: 1 (grey) or 3 (RGB).
    crop: "center" cuts the middle square, "random" one drawn anew in every epoch of training, "none" fits the whole
        image and fills up with the background.
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

    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)
    """Of the arrays."""

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

    def __call__(self, path: Path | Encoded) -> np.ndarray:
        """(C, H, W) uint8.

        Raises:
            DataError: the file cannot be read.
        """
        return self.decode(path)[0]

    def decode(self, path: Path | Encoded) -> tuple[np.ndarray, list[str]]:
        """(C, H, W) uint8, and what a user should know of it: ``ENLARGED``, ``ANIMATED``.

        Raises:
            DataError: the file cannot be read.
        """
        image, notes = self._read(path)
        square = (self.resolution, self.resolution)
        if image.size != square:
            method = Image.Resampling[self.filter.upper()]
            fitted = max(image.size) if self.crop == "none" else min(image.size)
            notes += [ENLARGED] if fitted < self.resolution else []
            if self.crop != "none":
                image = ImageOps.fit(image, square, method)
            else:
                image = ImageOps.pad(image, square, method, color=self._background(image.mode))
        return _planes(image), notes

    def whole(self, path: Path | Encoded) -> np.ndarray:
        """The image in its own size, (C, H', W').

        Raises:
            DataError: the file cannot be read.
        """
        return _planes(self._read(path)[0])

    def cut(
        self, path: Path | Encoded, cover: tuple[int, int], corner: tuple[int, int], shape: tuple[int, int]
    ) -> np.ndarray:
        """(C, *shape) uint8: the image resized to ``cover``, of which ``shape`` at ``corner``; all (height, width).

        Raises:
            DataError: the file cannot be read.
        """
        image, _ = self._read(path)
        (height, width), (top, left) = shape, corner
        if image.size != cover[::-1]:
            image = image.resize(cover[::-1], Image.Resampling[self.filter.upper()])
        return _planes(image.crop((left, top, left + width, top + height)))

    def _read(self, path: Path | Encoded) -> tuple[Image.Image, list[str]]:
        image = read_image(path)
        notes = [ANIMATED] if image.info["animated"] else []
        image = self._flat(image)
        return image if self.box is None else image.crop(self.box), notes

    def _flat(self, image: Image.Image) -> Image.Image:
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, self.background), image)
        return image.convert("L" if self.channels == 1 else "RGB")

    def _background(self, mode: str) -> int | tuple[int, ...]:
        return ImageColor.getcolor(self.background, mode)


def _planes(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
