"""What a folder of pictures holds: its files, with the labels and captions that metadata or sub-folders give."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diffusion.data.error import DataError

METADATA = "metadata.jsonl"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True, slots=True)
class Listed:
    """One picture: its file, its name relative to the folder, and what is known about it."""

    path: Path
    name: str
    label: int | str | None = None
    text: str | None = None

    @property
    def hash(self) -> float:
        """Of the name, in [0, 1)."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:6], "big") / 2**48


def list_folder(folder: Path) -> list[Listed]:
    """The pictures of ``folder``, by name: those of ``metadata.jsonl`` where it exists, otherwise all at any depth.

    Without metadata the label is the name of the first-level sub-folder, ``None`` for a picture in none.

    Raises:
        DataError: there are none, or the metadata do not fit the files.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder.resolve()}; set data.root to a folder of pictures")
    metadata = folder / METADATA
    pictures = sorted(_described(metadata) if metadata.is_file() else _walked(folder), key=lambda found: found.name)
    if not pictures:
        kinds = " ".join(sorted(SUFFIXES))
        raise DataError(
            f"there are no pictures in {folder.resolve()} ({kinds}); set data.root to a folder that has some"
        )
    return pictures


def check_complete(pictures: Sequence[Listed], field: Literal["label", "text"]) -> bool:
    """Whether all pictures have the field.

    Raises:
        DataError: some have it and some have not.
    """
    without = [picture for picture in pictures if getattr(picture, field) is None]
    if without and len(without) < len(pictures):
        raise DataError(
            f"{len(without)} of {len(pictures)} pictures have no {field}, the first is {without[0].path}; "
            f"give every picture one, or none"
        )
    return not without


def number_labels(pictures: Sequence[Listed]) -> list[Listed]:
    """The same with labels 0, 1, ... in the sorted order of the sub-folders' names; numbers stay as they are.

    Raises:
        DataError: some labels are numbers (of metadata) and some names (of sub-folders).
    """
    names = sorted({picture.label for picture in pictures if isinstance(picture.label, str)})
    if not names:
        return list(pictures)
    if not all(isinstance(picture.label, str) for picture in pictures):
        raise DataError(
            f"labels are numbers of {METADATA} for some pictures and sub-folders for others; use one of them"
        )
    number = {name: i for i, name in enumerate(names)}
    return [replace(picture, label=number[str(picture.label)]) for picture in pictures]


def _walked(folder: Path) -> Iterator[Listed]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            yield Listed(path, inside.as_posix(), inside.parts[0] if len(inside.parts) > 1 else None)


def _described(metadata: Path) -> Iterator[Listed]:
    seen: set[str] = set()
    for number, row in _rows(metadata):
        where = f"line {number} of {metadata}"
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f'{where} has no "file_name"; every line names one picture')
        if name in seen:
            raise DataError(f"{where} names {name} a second time; remove one of the lines")
        seen.add(name)
        path = metadata.parent / name
        if not path.is_file():
            raise DataError(f"{where} names {name}, which is not in {metadata.parent}; add the file or remove the line")
        yield Listed(path, name, _typed(row, "label", int, where), _typed(row, "text", str, where))


def _rows(metadata: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        lines = metadata.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{metadata} is not UTF-8 text ({error}); save it as UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"line {number} of {metadata} is not JSON ({error.msg}); one object a line is expected"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f"line {number} of {metadata} is not an object but {line.strip()[:40]}; one object a line")
        yield number, row


def _typed(row: dict[str, Any], key: str, kind: type, where: str) -> Any:
    value = row.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        wanted = {int: "a whole number", str: "a string"}[kind]
        raise DataError(f'"{key}" is {wanted}, {where} has {json.dumps(value)}')
    return value
