"""The images of a folder, with the labels and captions of metadata or sub-folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from diffusion.errors import DataError

METADATA = "metadata.jsonl"
RESERVED = frozenset({"dropped", "image", "index", "label", "moments", "text"})
"""Names in a batch that further columns cannot have."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


@dataclass(frozen=True, slots=True)
class Listed:
    """One image: its file, its name relative to the folder, its label and text; ``more`` are the further columns of its
    metadata, whole numbers and texts."""

    path: Path
    name: str
    label: int | str | None = None
    text: str | None = None
    more: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def hash(self) -> float:
        """Of the name, in [0, 1)."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:6], "big") / 2**48


def list_folder(folder: Path, label: str = "label", text: str = "text") -> list[Listed]:
    """The images of ``folder``, by name: those of ``metadata.jsonl`` where it exists, otherwise all at any depth.

    Without metadata the label is the name of the first-level sub-folder, ``None`` for an image in none.

    label, text: the columns of the metadata that hold them.

    Raises:
        DataError: there are none, or the metadata do not fit the files.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder.resolve()}; set data.root to a folder of images")
    metadata = folder / METADATA
    found = _described(metadata, label, text) if metadata.is_file() else _walked(folder)
    images = sorted(found, key=lambda one: one.name)
    if not images:
        kinds = " ".join(sorted(SUFFIXES))
        raise DataError(f"there are no images in {folder.resolve()} ({kinds}); set data.root to a folder that has some")
    return images


def check_complete(images: Sequence[Listed], field: Literal["label", "text"]) -> bool:
    """Whether all images have the field.

    Raises:
        DataError: some have it and some have not.
    """
    without = [image for image in images if getattr(image, field) is None]
    if without and len(without) < len(images):
        raise DataError(
            f"{len(without)} of {len(images)} images have no {field}, the first is {without[0].path}; "
            f"give every image one, or none"
        )
    return not without


def further_columns(images: Sequence[Listed]) -> dict[str, list[Any]]:
    """The further columns that every image has, with values of one kind; the others are left out."""
    names = dict.fromkeys(name for image in images for name in image.more)
    columns = {name: [image.more.get(name) for image in images] for name in names}
    kinds = {name: {type(value) for value in column} for name, column in columns.items()}
    return {name: column for name, column in columns.items() if kinds[name] in ({int}, {str})}


def number_labels(images: Sequence[Listed]) -> list[Listed]:
    """The same with labels 0, 1, ... in the sorted order of the sub-folders' names; numbers stay as they are.

    Raises:
        DataError: some labels are numbers (of metadata) and some names (of sub-folders).
    """
    names = sorted({image.label for image in images if isinstance(image.label, str)})
    if not names:
        return list(images)
    if not all(isinstance(image.label, str) for image in images):
        raise DataError(f"labels are numbers of {METADATA} for some images and sub-folders for others; use one of them")
    number = {name: i for i, name in enumerate(names)}
    return [replace(image, label=number[str(image.label)]) for image in images]


def _walked(folder: Path) -> Iterator[Listed]:
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            yield Listed(path, inside.as_posix(), inside.parts[0] if len(inside.parts) > 1 else None)


def _described(metadata: Path, label: str, text: str) -> Iterator[Listed]:
    seen: set[str] = set()
    for number, row in _rows(metadata):
        where = f"line {number} of {metadata}"
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f'{where} has no "file_name"; every line names one image')
        if name in seen:
            raise DataError(f"{where} names {name} a second time; remove one of the lines")
        seen.add(name)
        path = metadata.parent / name
        if not path.is_file():
            raise DataError(f"{where} names {name}, which is not in {metadata.parent}; add the file or remove the line")
        taken = {"file_name", label, text, *RESERVED}
        more = {key: v for key, v in row.items() if key not in taken and type(v) in (int, str)}
        yield Listed(path, name, _typed(row, label, int, where), _typed(row, text, str, where), more)


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
