"""A text file beside an image, of the same name with the suffix ``.txt``: a caption a line."""

from __future__ import annotations

from pathlib import Path

from diffusion.errors import DataError
from diffusion.image_file import shown

SUFFIX = ".txt"


def read_text(path: Path) -> tuple[str, ...]:
    """The lines that are not empty, each one caption.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return captions_of(path.read_bytes(), shown(path))
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read: {error.strerror}") from None


def captions_of(content: bytes, where: str) -> tuple[str, ...]:
    """The captions of a text file's content.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text ({error}); save it as UTF-8") from None
    return tuple(line.strip() for line in text.split("\n") if line.strip())
