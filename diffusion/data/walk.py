"""All images below a folder, links followed, and what else lies there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from diffusion.errors import DataError
from diffusion.image_file import is_image, shown

METADATA = ("metadata.jsonl", "metadata.csv")
BESIDE_GRID = ("samples.npz", "settings.json")
"""What scripts/sample.py writes beside its ``grid.png`` or ``grid/grid.png``, an image of images."""


@dataclass(slots=True)
class Found:
    """images, metadata: in the order of their paths. left_out: names relative to the folder, by the reason."""

    images: list[Path] = field(default_factory=list)
    metadata: list[Path] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def find_images(folder: Path, wanted: Callable[[Path], bool] = is_image) -> Found:
    """The images at any depth, or other files that are ``wanted``, hidden ones and the grids of samples left out.

    Raises:
        DataError: a folder that cannot be listed, a link to nothing, or one that leads back to a folder around it.
    """
    found = Found()
    _walk(folder, folder, {}, found, wanted)
    return found


def first(names: Iterable[object], count: int = 5) -> str:
    """The first few of many names."""
    names = list(names)
    return ", ".join(shown(str(name)) for name in names[:count]) + (", ..." if len(names) > count else "")


def describe_left_out(left_out: dict[str, list[str]]) -> str:
    """ "2 hidden (.a, .b), 1 no image (notes.txt)"."""
    return ", ".join(f"{len(names)} {reason} ({first(names)})" for reason, names in left_out.items())


def _walk(
    root: Path, folder: Path, around: dict[tuple[int, int], Path], found: Found, wanted: Callable[[Path], bool]
) -> None:
    try:
        stat = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {shown(folder)} cannot be read: {error.strerror}") from None
    own = (stat.st_dev, stat.st_ino)
    if own in around:
        raise DataError(
            f"{shown(folder)} is a link to {shown(around[own])}, which it lies in: an endless loop; remove the link"
        )
    for entry in entries:
        path = folder / entry.name
        if entry.name.startswith("."):
            reason = "hidden"
        elif entry.is_symlink() and not path.exists():
            target = shown(os.readlink(path))
            raise DataError(f"{shown(path)} is a link to {target}, which leads nowhere; mend or remove the link")
        elif entry.is_dir():
            _walk(root, path, {**around, own: folder}, found, wanted)
            continue
        elif entry.name in METADATA:
            found.metadata.append(path)
            continue
        elif _is_grid(path):
            reason = "grid of samples"
        elif entry.is_file() and wanted(path):
            found.images.append(path)
            continue
        else:
            reason = "no image"
        found.left_out.setdefault(reason, []).append(path.relative_to(root).as_posix())


def _is_grid(path: Path) -> bool:
    if path.name != "grid.png":
        return False
    folder = path.parent.parent if path.parent.name == "grid" else path.parent
    return any((folder / name).is_file() for name in BESIDE_GRID)
