"""``metadata.jsonl`` and ``metadata.csv``: labels, captions and further columns of image files, one row an image."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion.errors import DataError
from diffusion.image_file import shown

FILE_NAME = "file_name"
RESERVED = frozenset({"dropped", "image", "index", "label", "moments", "text"})
"""Names in a batch that further columns cannot have."""

Cells = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: ``where`` it stands, the file that it names relative to the metadata, and its columns.

    label: a whole number, or a word. texts: one caption or several. more: the further columns, whole numbers and texts.
    """

    where: str
    name: str
    label: int | str | None = None
    texts: tuple[str, ...] = ()
    more: Mapping[str, int | str] = field(default_factory=dict)


def read_rows(metadata: Sequence[Path], label: str, text: str) -> list[tuple[Path, Row]]:
    """The rows of the files of one folder, each with its file; ``label`` and ``text`` are the columns that hold these.

    A column of the ``.csv`` files is read as whole numbers where all its cells in all of them are, except the text.

    Raises:
        DataError: not UTF-8, a broken line, a row without "file_name", or a label or text of another kind.
    """
    tables = [(file, *row) for file in metadata if file.suffix == ".csv" for row in _table(file, _content(file))]
    _read_numbers([(where, cells) for _, where, cells in tables], label, text)
    objects = [(file, *row) for file in metadata if file.suffix != ".csv" for row in _objects(file, _content(file))]
    return [(file, _row(where, cells, label, text)) for file, where, cells in [*tables, *objects]]


def _content(metadata: Path) -> str:
    try:
        return metadata.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{shown(metadata)} is not UTF-8 text ({error}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{shown(metadata)} cannot be read: {error.strerror}") from None


def _row(where: str, cells: Cells, label: str, text: str) -> Row:
    name = cells.get(FILE_NAME)
    if not isinstance(name, str) or not name:
        raise DataError(f'{where} has no "{FILE_NAME}"; every row names one image')
    words, number = cells.get(text), cells.get(label)
    texts = () if words is None else tuple(words) if isinstance(words, list) else (words,)
    if not all(isinstance(one, str) for one in texts):
        raise DataError(f'"{text}" is a string or a list of strings, {where} has {json.dumps(words)}')
    if number is not None and not (isinstance(number, str) or _fits(number)):
        raise DataError(f'"{label}" is a whole number or a word, {where} has {json.dumps(number)}')
    taken = {FILE_NAME, label, text, *RESERVED}
    more = {key: value for key, value in cells.items() if key not in taken and (isinstance(value, str) or _fits(value))}
    return Row(where, name, None if number == "" else number, texts, more)


def _objects(metadata: Path, content: str) -> Iterator[tuple[str, Cells]]:
    for number, line in enumerate(content.split("\n"), 1):  # splitlines would also cut at characters of a caption
        if not line.strip():
            continue
        where = f"line {number} of {shown(metadata)}"
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            why = getattr(error, "msg", "too deep")
            raise DataError(f"{where} is not JSON ({why}); one object a line is expected") from None
        if not isinstance(row, dict):
            raise DataError(f"{where} is not an object but {line.strip()[:40]}; one object a line")
        yield where, row


def _table(metadata: Path, content: str) -> list[tuple[str, Cells]]:
    """Empty cells are missing ones."""
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} of {shown(metadata)} is not CSV: {error}") from None
    header = lines[0][1] if lines else []
    if FILE_NAME not in header or len(set(header)) < len(header):
        raise DataError(
            f'the first line of {shown(metadata)} names the columns, separated by commas, "{FILE_NAME}" among them and '
            f"none twice; it has {', '.join(header) or 'nothing'}"
        )
    rows: list[tuple[str, Cells]] = []
    for number, cells in lines[1:]:
        where = f"line {number} of {shown(metadata)}"
        if len(cells) != len(header):
            raise DataError(
                f'{where} has {len(cells)} cells for {len(header)} columns; quote cells with commas: "a, b"'
            )
        rows.append((where, {name: cell for name, cell in zip(header, cells, strict=True) if cell}))
    return rows


def _read_numbers(rows: Sequence[tuple[str, Cells]], label: str, text: str) -> None:
    for name in {name for _, row in rows for name in row} - {FILE_NAME, text}:
        given = [(where, row) for where, row in rows if name in row]
        if all(_whole(row[name]) for _, row in given):
            for _, row in given:
                row[name] = int(row[name])
        elif name == label and (odd := [where for where, row in given if re.fullmatch(r"-?\d*\.\d*", row[name])]):
            raise DataError(f'"{label}" is a whole number or a word, {odd[0]} has a number with a decimal point')


def _fits(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _whole(cell: str) -> bool:
    """As a number is written: "7", not "007", which is a name."""
    return re.fullmatch(r"0|-?[1-9]\d{0,17}", cell, re.ASCII) is not None
