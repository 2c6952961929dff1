"""One image of a collection with what is known of it, and what is asked of all of them together."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diffusion.data.decoded import Source
from diffusion.data.walk import first
from diffusion.errors import DataError
from diffusion.image_file import shown

log = logging.getLogger(__name__)

MISSING_TEXT = ("refuse", "empty", "skip")


@dataclass(frozen=True, slots=True)
class Record:
    """One image: where it is, its name relative to its split, its label and its captions.

    size: (height, width) where it is known without a look. more: further columns, numbers, texts or lists of numbers.
    """

    source: Source
    name: str
    label: int | str | None = None
    texts: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> float:
        """Of the name's bytes, in [0, 1)."""
        return int.from_bytes(hashlib.sha256(os.fsencode(self.name)).digest()[:6], "big") / 2**48

    def __str__(self) -> str:
        return shown(str(self.source))


def captioned(records: Sequence[Record], missing: str) -> list[Record]:
    """Records that all have a caption, or none of them; ``missing`` says what happens to those without one: they are
    refused, get the empty caption, or are left out.

    Raises:
        DataError: captions missing in part.
    """
    without = [record for record in records if not record.texts]
    if not without or len(without) == len(records):
        return list(records)
    if missing == "refuse":
        raise DataError(
            f"{len(without)} of {len(records)} images have no text, the first is {without[0]}; give every image one, "
            "or set data.missing_text=empty for an empty caption or data.missing_text=skip to leave these images out"
        )
    what = "get an empty caption" if missing == "empty" else "are left out"
    log.warning("%d of %d images have no text and %s: %s", len(without), len(records), what, first(without))
    if missing == "skip":
        return [record for record in records if record.texts]
    return [record if record.texts else replace(record, texts=("",)) for record in records]


def check_labelled(records: Sequence[Record]) -> bool:
    """Whether all images have a label.

    Raises:
        DataError: some have one and some have not.
    """
    without = [record for record in records if record.label is None]
    if without and len(without) < len(records):
        raise DataError(
            f"{len(without)} of {len(records)} images have no label, the first is {without[0]}; give every image one, "
            "or none"
        )
    return not without


def further_columns(records: Sequence[Record]) -> list[str]:
    """The further columns that every image has, with values of one kind; the others are left out, and named."""
    names = dict.fromkeys(name for record in records for name in record.more)
    kinds = {name: {_kind(record.more.get(name)) for record in records} for name in names}
    complete = [name for name in names if len(kinds[name]) == 1 and None not in kinds[name]]
    if rest := sorted(names.keys() - {*complete}):
        log.warning("columns that not every image has, or of several kinds, are left out: %s", first(rest))
    return complete


def number_labels(records: Sequence[Record]) -> tuple[list[Record], tuple[str, ...] | None]:
    """The same with words as labels 0, 1, ... in their sorted order, and these words; numbers stay, with ``None``.

    Raises:
        DataError: some labels are numbers and some words.
    """
    words = sorted({record.label for record in records if isinstance(record.label, str)})
    if not words:
        return list(records), None
    for record in records:
        if not isinstance(record.label, str):
            raise DataError(
                f"labels are numbers for some images ({record}: {record.label}) and words for others "
                f"({shown(words[0])}); use one of them"
            )
    number = {word: i for i, word in enumerate(words)}
    return [replace(record, label=number[str(record.label)]) for record in records], tuple(words)


def _kind(value: Any) -> tuple[type, int] | None:
    """Of a value that a batch can hold; the length of a list of numbers is part of it."""
    if isinstance(value, list | tuple):
        numbers = value and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        return (list, len(value)) if numbers else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    return type(value), 0
