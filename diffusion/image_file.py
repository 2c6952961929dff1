"""Reading an image file: the one place where a file becomes pixels, for training data, scoring and measurements."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from diffusion.errors import DataError

RULES = 2
"""Of what :func:`read_image` makes of a file; a new number invalidates stored arrays."""
NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow recognises and cannot decode, or only by starting another program."""
WITHOUT_MAGIC = frozenset({"IM", "IMT", "IPTC", "MCIDAS", "SPIDER", "TGA"})
"""Formats that do not begin with fixed bytes: recognised by their suffix only."""
LOSSY = frozenset({"AVIF", "JPEG", "JPEG2000", "MPO", "WEBP"})
STILL = frozenset({"ICNS", "ICO", "MPO", "PSD"})
"""Formats whose first frame is the whole image, whatever follows it."""


class Encoded(ABC):
    """An encoded image that is no file of its own: a member of an archive, a cell of a table. ``str`` of it is the
    name that messages give."""

    identity: str
    """Of its bytes: two with the same one are the same image."""

    @abstractmethod
    def read(self) -> bytes:
        """Its bytes, from any thread.

        Raises:
            DataError: what it lies in is gone or cut short.
        """


def image_size(source: Path | str | Encoded) -> tuple[int, int]:
    """(height, width) of the upright image, from its first bytes alone.

    Raises:
        DataError: no such file, or of no known format.
    """
    try:
        with Image.open(_opened(source), formats=_formats()) as opened:
            width, height = opened.size
            turned = opened.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{shown(str(source))} cannot be read as an image ({_reason(source, error)})") from error
    return (width, height) if turned else (height, width)


def read_image(path: Path | str | Encoded) -> Image.Image:
    """The first frame, upright, with 8 bits a channel: mode "L", "RGB", or "RGBA" where a pixel is transparent.

    The EXIF orientation is applied. Integers of 9 to 16 bits are scaled by their range, floats are taken in [0, 1];
    neither is ever clipped. Palettes, CMYK, YCbCr and HSV become RGB, one bit becomes "L", and transparency that is
    opaque everywhere is dropped. ``info`` holds "format" (Pillow's name) and "animated" (there are further frames).

    Raises:
        DataError: no such file, broken, of no known format, or pixels without an agreed range; it names the file.
    """
    try:
        with Image.open(_opened(path), formats=_formats()) as opened:
            name = str(opened.format)
            animated = name not in STILL and bool(getattr(opened, "is_animated", False))
            image = _eight_bits(ImageOps.exif_transpose(opened), name, _bits(opened))
    except DataError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise DataError(f"{shown(str(path))} cannot be read as an image ({_reason(path, error)})") from error
    image.info = {"format": name, "animated": animated}
    return image


def has_image_suffix(name: Path | str) -> bool:
    """Whether a name ends with a suffix that Pillow can decode, in any case of letters."""
    return os.path.splitext(name)[1].lower() in _suffixes()


def is_image(path: Path | str) -> bool:
    """Whether a file is an image: by a suffix that Pillow knows, whatever it contains, or else by its first bytes."""
    if has_image_suffix(path):
        return True
    try:
        with Image.open(path, formats=[name for name in _formats() if name not in WITHOUT_MAGIC]):
            return True
    except Exception:
        return False


def shown(path: Path | str) -> str:
    """A path as text that every log can print: what is no character, or would break the line, is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def _opened(source: Path | str | Encoded) -> Path | str | io.BytesIO:
    return io.BytesIO(source.read()) if isinstance(source, Encoded) else source


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in NOT_READ]


@cache
def _suffixes() -> frozenset[str]:
    known = {*_formats(), "MPO"}
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def _bits(opened: Image.Image) -> int:
    """Of a grey channel with more than 8: what a TIFF declares, else 16."""
    declared = getattr(opened, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return int(declared[0] if isinstance(declared, tuple) else declared)


def _eight_bits(image: Image.Image, name: str, bits: int) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and name == "PPM"):  # Pillow scales a PGM to 16 bits
        image = _scaled(np.asarray(image), 2**bits - 1, image.info.get("transparency"))
    elif image.mode == "I":
        raise ValueError("its pixels are integers of 32 bits, which have no agreed range; save it with 8 or 16 bits")
    elif image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # or not a number
            raise ValueError(
                f"its pixels are floats from {values.min():g} to {values.max():g}, and floats are read in [0, 1]; "
                "scale them, or save it with 8 or 16 bits"
            )
        image = _scaled(values, 1, None)
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            return image
    return image.convert("L" if grey else "RGB")


def _scaled(values: np.ndarray, top: int, transparent: int | None) -> Image.Image:
    image = Image.fromarray(np.round(values * (255 / top)).astype(np.uint8))
    if transparent is not None:
        image.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return image


def _reason(source: Path | str | Encoded, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        size = len(source.read()) if isinstance(source, Encoded) else os.path.getsize(source)
        return "its content is of no known format" if size else "it is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


_BITS_PER_SAMPLE = 258
_ORIENTATION = 274
