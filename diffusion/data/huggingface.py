"""Data sets of the Hugging Face hub's format: a name of the hub, or a folder or files here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffusion.data.collection.base import Collection, Crop, Missing, check_columns
from diffusion.data.collection.record import Record
from diffusion.data.decoded import Memory, identity
from diffusion.data.image import Decoder
from diffusion.data.walk import first
from diffusion.errors import DataError
from diffusion.image_file import Encoded, shown

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = {".parquet": "parquet", ".arrow": "arrow"}
HELD_OUT = ("test", "validation")
"""Splits that are held out where none is named, the first of them that there is."""


class Cell(Encoded):
    """The image in one row of a table: bytes, or the path of a file."""

    def __init__(self, table: Dataset, files: str, row: int, column: str, name: str) -> None:
        self.table, self.row, self.column, self.name = table, row, column, name
        self.identity = f"{files}:{row}:{column}"

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        value = self.table[self.row][self.column]
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            try:
                return Path(value).read_bytes()
            except OSError as error:
                raise DataError(f"{self} names {shown(value)}, which cannot be read: {error.strerror}") from None
        if not isinstance(value, bytes):
            raise DataError(f"{self} holds no image but {type(value).__name__}; set data.image to a column of images")
        return value


class HuggingFace(Collection):
    """A data set that the package ``datasets`` reads. The images of a row are in one column, as the hub keeps them
    (encoded bytes with a path), as bytes, or as paths of files.

    Args:
        path: a file or a folder of Parquet or Arrow files, a folder that ``save_to_disk`` wrote, or a name of the hub
            (owner/name); only a name needs a network, the first time.
        subset: the configuration, where the data set has several.
        revision: of a name: a commit, tag or branch.
        split: of training.
        held_out: the split that is held out; ``None`` for "test" or else "validation", and where there is neither a
            hash of the row's number decides.
        image, label, text: columns. Labels are numbers, the hub's classes with their names, or words; a text is a
            string, or a list of captions of which one is drawn a sample and epoch. ``text=None`` reads none.
        columns: further columns that the batch carries by name: numbers, texts, lists of numbers of one length.
        crop, filter, background: see :class:`diffusion.data.image.Decoder`.
        others: see :class:`diffusion.data.collection.base.Collection`.

    Raises:
        DataError: in :meth:`setup`: no such data set, split or column, no network, a cell that is no image.
    """

    def __init__(
        self,
        path: str,
        subset: str | None = None,
        revision: str | None = None,
        split: str = "train",
        held_out: str | None = None,
        channels: int = 3,
        resolution: int = 64,
        num_classes: int = 0,
        image: str = "image",
        label: str = "label",
        text: str | None = "text",
        columns: Sequence[str] = (),
        missing_text: Missing = "refuse",
        crop: Crop = "center",
        filter: str = "lanczos",
        background: str = "white",
        bucket_ratio: float = 1.0,
        bucket_step: int = 64,
        size_columns: bool = False,
        test_fraction: float = 0.1,
        memory: Memory = "auto",
        cache: str = "data/cache",
        batch_size: int = 64,
        flip: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(
            name=Path(path).name,
            decoder=Decoder(channels, resolution, crop, filter, background),
            num_classes=num_classes,
            label=label,
            text=text or "text",
            missing_text=missing_text,
            bucket_ratio=bucket_ratio,
            bucket_step=bucket_step,
            size_columns=size_columns,
            test_fraction=test_fraction,
            memory=memory,
            cache=cache,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        self.path, self.subset, self.revision, self.train, self.held_out = path, subset, revision, split, held_out
        self.image, self.columns, self.reads_text = image, check_columns(columns), text is not None
        self.label_hint = "set data.label to one of its columns"

    @property
    def where(self) -> str:
        return shown(self.path)

    def records(self) -> list[list[Record]]:
        tables = self._tables()
        if self.train not in tables:
            raise DataError(f"{self.where} has no split {self.train}, it has {first(tables)}; set data.split to one")
        if self.held_out is not None and self.held_out not in tables:
            raise DataError(
                f"{self.where} has no split {self.held_out}, it has {first(tables)}; set data.held_out to one or null"
            )
        held_out = self.held_out or next((name for name in HELD_OUT if name in tables and name != self.train), None)
        names = [self.train] if held_out is None else [self.train, held_out]
        return [self._listed(name, tables[name]) for name in names]

    def _listed(self, split: str, table: Dataset) -> list[Record]:
        from datasets import ClassLabel, Image  # slow to import

        for key, column in [("image", self.image), *(("columns", name) for name in self.columns)]:
            if column not in table.column_names:
                raise self._lacks(key, column, table)
        if self.num_classes and self.label not in table.column_names:
            raise self._lacks("label", self.label, table)
        has_text = self.reads_text and self.text in table.column_names
        if self.reads_text and not has_text and self.text != "text":
            raise self._lacks("text", self.text, table)
        if isinstance(table.features[self.image], Image):
            table = table.cast_column(self.image, Image(decode=False))
        wanted = [*self.columns, *([self.label] if self.num_classes else []), *([self.text] if has_text else [])]
        words: Sequence[str] | None = None
        if self.num_classes and isinstance(classes := table.features[self.label], ClassLabel):
            words = classes.names
            self.classes = tuple(words)
        cells = {name: table[name][:] for name in dict.fromkeys(wanted)}
        files = json.dumps([identity(Path(file["filename"])) for file in table.cache_files])
        files = hashlib.sha256(files.encode()).hexdigest()
        records = []
        for row in range(len(table)):
            where = f"row {row} of {split} of {self.where}"
            label = cells[self.label][row] if self.num_classes else None
            if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
                raise DataError(f'"{self.label}" is a whole number or a word, {where} has {label!r}')
            texts = _texts(cells[self.text][row], f'"{self.text}" of {where}') if has_text else ()
            more = {name: cells[name][row] for name in self.columns}
            records.append(Record(Cell(table, files, row, self.image, where), f"{row}", label, texts, more=more))
        return records

    def _lacks(self, key: str, column: str, table: Dataset) -> DataError:
        there = first(table.column_names, 20)
        return DataError(f"{self.where} has no column {column}, it has {there}; set data.{key} to one of them")

    def _tables(self) -> Mapping[str, Dataset]:
        here = Path(self.path)
        if not here.exists():
            _check_hub(self.path, self.revision)
        try:
            import datasets  # slow to import
        except ImportError:
            raise DataError("data=huggingface needs the package datasets: pip install datasets") from None
        try:
            if any((here / name).is_file() for name in ("state.json", "dataset_dict.json")):
                found = datasets.load_from_disk(str(here))
            elif here.is_file():
                if (kind := FORMATS.get(here.suffix)) is None:
                    raise DataError(f"{self.where} is no .parquet or .arrow file; set data.path to one, or to a folder")
                found = datasets.load_dataset(kind, data_files=str(here), cache_dir=str(self.cache))
            else:
                settings: dict[str, Any] = {"revision": None if here.exists() else self.revision}
                source = str(here.resolve()) if here.exists() else self.path
                found = datasets.load_dataset(source, self.subset, cache_dir=str(self.cache), **settings)
        except DataError:
            raise
        except Exception as error:  # a dozen kinds: broken files, an unknown subset, a repository with a script
            raise DataError(f"{self.where} cannot be read as a data set ({_short(error)}); set data.path") from error
        return {self.train: found} if isinstance(found, datasets.Dataset) else dict(found)


def _check_hub(name: str, revision: str | None) -> None:
    """Raises:
    DataError: no name, or one that the hub does not give, soon: the package would try for half a minute.
    """
    if len(parts := name.split("/")) > 2 or not all(parts) or name.startswith((".", "~")):
        raise DataError(f"there is no file or folder {shown(name)}; set data.path to one, or to a name of the hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        HfApi().dataset_info(name, revision=revision, timeout=_SECONDS)
    except OfflineModeIsEnabled:
        return  # what was downloaded before is read
    except Exception as error:  # no network, no such repository, no permission: a dozen kinds
        raise DataError(
            f"data.path={name} is no path here, and the Hugging Face hub did not give it ({type(error).__name__}); set "
            "data.path to a folder of its files, or HF_HUB_OFFLINE=1 where it was downloaded before"
        ) from None


def _texts(value: Any, where: str) -> tuple[str, ...]:
    several = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
        raise DataError(f"{where} is a string or a list of strings, got {json.dumps(value, default=str)[:80]}")
    return tuple(several)


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:160]


_SECONDS: Literal[2] = 2
"""Without a response for this long the hub counts as unreachable."""
