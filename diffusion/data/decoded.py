"""Many encoded images as one tensor: in memory, mapped from a file that is written once, or decoded when they are
asked for."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import PIL
import psutil
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from diffusion.data.bucket.cut import Cut
from diffusion.data.image import Decoder
from diffusion.data.walk import first
from diffusion.errors import DataError
from diffusion.files import allocate, replacing, write_atomic
from diffusion.image_file import RULES, Encoded, shown

log = logging.getLogger(__name__)

Notes = dict[str, list[str]]
"""What is to be known of files: their names by the note."""
Source = Path | Encoded
Item = TypeVar("Item", bound=Source)
Result = TypeVar("Result")
Memory = Literal["auto", "ram", "mmap", "stream"]
MEMORY = ("auto", "ram", "mmap", "stream")


class Streamed:
    """Images (N, C, H, W) that are decoded when they are asked for, on as many threads as there are processors: what
    indexes a tensor indexes these.

    cut: how each is cut to a shape of its own, whatever ``shape`` says; ``None`` for the decoder's square.
    """

    def __init__(self, sources: Sequence[Source], decoder: Decoder, cut: Cut | None = None) -> None:
        self.sources, self.decoder, self.cut = sources, decoder, cut
        self.dtype = torch.from_numpy(np.empty(0, decoder.dtype)).dtype
        self.shape = torch.Size((len(sources), decoder.channels, decoder.resolution, decoder.resolution))

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def identity(self) -> str:
        """Of all pixels: a hash of where they come from and of the settings."""
        return _key(self.sources, self.decoder) + ("" if self.cut is None else self.cut.identity)

    def __getitem__(self, rows: Tensor | slice | int) -> Tensor:
        if isinstance(rows, int):
            return self.index_select(0, torch.tensor([range(len(self))[rows]]))[0]
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)))
        return self.index_select(0, rows)

    def index_select(self, dim: int, rows: Tensor, keys: np.ndarray | None = None) -> Tensor:
        """Those of ``rows`` (B,) int64; keys (B,) uint64: of the places where they are cut in this epoch, ``None`` for
        the middle.

        Raises:
            DataError: one that cannot be decoded, or several shapes.
        """
        numbers = rows.tolist()
        if self.cut is None or not numbers:
            out = np.empty((len(numbers), *self.shape[1:]), self.decoder.dtype)
            work: list[tuple[Source, tuple]] = [(self.sources[i], ()) for i in numbers]
        else:
            shape = self.cut.common(rows)
            out = np.empty((len(numbers), self.decoder.channels, *shape), self.decoder.dtype)
            covers, corners = self.cut.cover[rows].tolist(), self.cut.corners(rows, keys).tolist()
            places = [(tuple(a), tuple(b), shape) for a, b in zip(covers, corners, strict=True)]
            work = [(self.sources[i], place) for i, place in zip(numbers, places, strict=True)]

        def decode(row: int) -> None:
            source, place = work[row]
            out[row] = self.decoder.cut(source, *place) if place else self.decoder(source)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL while it decodes
            list(pool.map(decode, range(len(numbers))))
        return torch.from_numpy(out)

    def split(self, sizes: Sequence[int]) -> tuple[Streamed, ...]:
        """As of a tensor: one after the other."""
        ends = np.cumsum([0, *sizes]).tolist()
        return tuple(Streamed(self.sources[a:b], self.decoder) for a, b in pairwise(ends))


def decode_all(
    files: Sequence[Source], decoder: Decoder, *, memory: str, cache: Path, copies: int = 1
) -> tuple[Tensor | Streamed, Path | None]:
    """(N, C, H, W) of the decoder's type in the order of ``files``, and the file that it is mapped from, ``None`` in
    memory.

    memory: "ram" decodes on each start. "mmap" decodes once, into a file below ``cache`` named by a hash of names,
        sizes, modification times and settings. "auto" is "ram" where ``copies`` of the array fill at most a quarter of
        the free memory, else "mmap". "stream" decodes an image whenever it is asked for.

    Raises:
        DataError: unreadable files, named.
        DiskError: there is no room for the file.
    """
    if memory not in MEMORY:
        raise DataError(f"data.memory is one of {', '.join(MEMORY)}, got {memory!r}")
    if memory == "stream":
        return Streamed(files, decoder), None
    shape = (len(files), decoder.channels, decoder.resolution, decoder.resolution)
    size = copies * int(np.prod(shape)) * decoder.dtype.itemsize
    if memory == "ram" or (memory == "auto" and size <= psutil.virtual_memory().available // 4):
        array = np.empty(shape, decoder.dtype)
        _tell(_fill(array, files, decoder), len(files))
        return torch.from_numpy(array), None
    path = cache / f"{_key(files, decoder)}.npy"
    if not path.exists():
        _write(path, shape, files, decoder)
    if _notes(path).exists():
        _tell(json.loads(_notes(path).read_text(encoding="utf-8")), len(files))
    # copy-on-write: torch requires a writable array, and the file stays as it is
    return torch.from_numpy(np.load(path, mmap_mode="c")), path


def each_file(files: Sequence[Item], do: Callable[[int, Item], Result], what: str) -> list[Result]:
    """``do(i, file)`` of all files, on as many threads as there are processors.

    Raises:
        DataError: of files that cannot be read; many of them are named.
    """

    def tried(row: int, path: Item) -> Result | DataError:
        try:
            return do(row, path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL while it decodes
        results = track(
            pool.map(tried, range(len(files)), files),
            f"{what} {len(files)} images",
            total=len(files),
            transient=True,
            disable=len(files) < _WORTH_A_BAR or not Console().is_terminal,
        )
        done = list(results)
    faults = [str(result) for result in done if isinstance(result, DataError)]
    if faults:
        more = "; ..." if len(faults) > _NAMED else ""
        raise DataError(
            f"{len(faults)} of {len(files)} images cannot be used: {'; '.join(faults[:_NAMED])}{more}; mend or remove "
            "these files"
        )
    return [result for result in done if not isinstance(result, DataError)]


def _key(files: Sequence[Source], decoder: Decoder) -> str:
    content = json.dumps([[identity(file) for file in files], asdict(decoder), PIL.__version__, RULES])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def identity(source: Source) -> str | tuple[str, int, int]:
    """A file's path, size and modification time; what another source says of itself."""
    if isinstance(source, Encoded):
        return source.identity
    stat = source.stat()
    return str(source.resolve()), stat.st_size, stat.st_mtime_ns


def _write(path: Path, shape: tuple[int, ...], files: Sequence[Source], decoder: Decoder) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:  # several ranks may write it; each writes the same bytes
        array = np.lib.format.open_memmap(part, mode="w+", dtype=decoder.dtype, shape=shape)
        allocate(part, part.stat().st_size)
        notes = _fill(array, files, decoder)
        array.flush()
        if notes:
            write_atomic(_notes(path), json.dumps(notes))


def _notes(path: Path) -> Path:
    return path.with_suffix(".json")


def _fill(array: np.ndarray, files: Sequence[Source], decoder: Decoder) -> Notes:
    def decode(row: int, path: Source) -> list[str]:
        array[row], notes = decoder.decode(path)
        return notes

    gathered: Notes = {}
    for path, notes in zip(files, each_file(files, decode, "decoding"), strict=True):
        for note in notes:
            gathered.setdefault(note, []).append(shown(str(path)))
    return gathered


def _tell(notes: Notes, total: int) -> None:
    for note, names in notes.items():
        log.warning("%d of %d images %s: %s", len(names), total, note, first(names))


_WORTH_A_BAR = 500
_NAMED = 20
