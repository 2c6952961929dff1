"""Images that carry how they are made again: a record in a text chunk of the PNG file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusion.errors import DataError
from diffusion.image_file import shown

CHUNK = "alphabar"
"""Keyword of the chunk (PNG specification, tEXt): JSON in ASCII."""
KINDS = {
    "version": str, "command": str, "settings": dict, "run_sha256": str, "facts": dict, "seed": int, "number": int,
    "file": str,
}  # fmt: skip
"""What a record holds, at least."""


def save(image: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """The image as a PNG with its record; in a block that replaces a folder or a file whole."""
    info = PngInfo()
    info.add_text(CHUNK, json.dumps(record))
    image.save(path, format="PNG", pnginfo=info)


def read(path: Path | str) -> dict[str, Any]:
    """The record of an image.

    Raises:
        DataError: no image, one without a record, or a record that is damaged.
    """
    name = shown(Path(path).name)
    try:
        with Image.open(path) as image:
            image.load()
            text = image.info.get(CHUNK)
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise DataError(f"{name} is no image that can be read; drop a PNG that the studio drew") from error
    if text is None:
        raise DataError(f"{name} does not say how it was made; drop a PNG that the studio drew, as it was saved")
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not all(isinstance(record.get(key), kind) for key, kind in KINDS.items()):
        raise DataError(f"what {name} says of how it was made is damaged; drop another copy of it")
    return record
