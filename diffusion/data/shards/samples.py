"""Samples of shards: members that differ in their suffixes only, as WebDataset groups them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusion.data.captions.text_file import captions_of
from diffusion.data.collection.record import Record
from diffusion.data.shards.index import Member
from diffusion.data.walk import first
from diffusion.errors import DataError
from diffusion.image_file import has_image_suffix, shown

log = logging.getLogger(__name__)

_SPLIT = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)")
"""A name up to the first dot after its folders, and its suffix."""
FIELDS = "json"
"""The suffix of a sample's object of named values."""


@dataclass(frozen=True, slots=True)
class Names:
    """What is what in a sample. label, text, columns: a suffix, or a field of its ``.json``. image: the suffix of its
    image, ``None`` where it has one only. ignore: suffixes that are not read."""

    label: str
    text: str
    image: str | None = None
    columns: Sequence[str] = ()
    ignore: Sequence[str] = field(default_factory=tuple)

    @property
    def known(self) -> frozenset[str]:
        return frozenset({self.label, self.text, FIELDS, *self.columns, *self.ignore})


def records_of(shards: Sequence[Sequence[Member]], names: Names, labels: bool) -> list[Record]:
    """One record a sample, in the order of shards and members.

    Raises:
        DataError: a member of no sample, of an unknown suffix or twice in one, a sample without an image or with
            several, or values of another kind; with the shard and the member.
    """
    left_out: list[str] = []
    records = []
    for members in shards:
        samples: dict[str, dict[str, Member]] = {}
        for member in members:
            base = member.name.rsplit("/", 1)[-1]
            if base.startswith((".", "__")):
                left_out.append(str(member))
                continue
            if (found := _SPLIT.fullmatch(member.name)) is None:
                raise DataError(f"{member} has no suffix, by which a member's part in a sample is known; remove it")
            key, suffix = found[1], found[2].lower()
            if suffix not in names.known and suffix != names.image and not has_image_suffix(member.name):
                raise DataError(
                    f"{member} has the unknown suffix {shown(suffix)}; name it in data.columns for a text or a number, "
                    "or in data.ignore"
                )
            if suffix in samples.setdefault(key, {}):
                raise DataError(f"{member} is there twice; remove one of them")
            samples[key][suffix] = member
        records += [_record(key, parts, names, labels) for key, parts in samples.items()]
    if left_out:
        log.warning("%d hidden members are left out: %s", len(left_out), first(left_out))
    if not records:
        raise DataError("the shards hold no samples; set data.shards to others")
    return records


def _record(key: str, parts: Mapping[str, Member], names: Names, labels: bool) -> Record:
    image = _image(parts, names)
    fields = _object(parts[FIELDS]) if FIELDS in parts else {}
    where = str(image)

    def value(name: str) -> Any:
        return _text(parts[name]) if name in parts else fields.get(name)

    texts = (
        captions_of(parts[names.text].read(), str(parts[names.text]))
        if names.text in parts
        else _captions(fields.get(names.text), names.text, where)
    )
    label = value(names.label) if labels else None
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise DataError(f'"{names.label}" is a whole number or a word, {where} has {json.dumps(label)[:80]}')
    more = {name: found for name in names.columns if (found := value(name)) is not None}
    name = f"{Path(image.shard.path).name}/{key}"
    return Record(image, name, label, texts, image.size, more)


def _image(parts: Mapping[str, Member], names: Names) -> Member:
    if names.image is not None:
        found = [parts[names.image]] if names.image in parts else []
    else:
        found = [
            member for suffix, member in parts.items() if suffix not in names.ignore and has_image_suffix(member.name)
        ]
    if len(found) == 1:
        return found[0]
    first_part = next(iter(parts.values()))
    if found:
        raise DataError(
            f"{first_part} and {found[1].name} are of one sample with {len(found)} images; set data.image to the "
            "suffix of one, and name the others in data.ignore"
        )
    raise DataError(f"{first_part} has no image beside it; remove it, or add the image")


def _object(member: Member) -> Mapping[str, Any]:
    try:
        content = json.loads(member.read())
    except ValueError as error:
        raise DataError(f"{member} is not JSON ({error}); mend it, or name json in data.ignore") from None
    if not isinstance(content, dict):
        raise DataError(f"{member} is not an object of named values but {json.dumps(content)[:40]}")
    return content


def _text(member: Member) -> int | str:
    try:
        text = member.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{member} is not UTF-8 text ({error}); name its suffix in data.ignore") from None
    return int(text) if re.fullmatch(r"0|-?[1-9]\d{0,17}", text, re.ASCII) else text


def _captions(value: Any, name: str, where: str) -> tuple[str, ...]:
    several = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
        raise DataError(f'"{name}" is a string or a list of strings, {where} has {json.dumps(value)[:80]}')
    return tuple(several)
