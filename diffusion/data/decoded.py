"""Many image files as one uint8 tensor: in memory, or mapped from a file that is written once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import psutil
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from diffusion.data.image import Decoder
from diffusion.data.walk import first
from diffusion.errors import DataError
from diffusion.files import replacing, write_atomic
from diffusion.image_file import RULES, shown

log = logging.getLogger(__name__)

Notes = dict[str, list[str]]
"""What is to be known of files: their names by the note."""
Result = TypeVar("Result")
MEMORY = ("auto", "ram", "mmap")


def decode_all(
    files: Sequence[Path], decoder: Decoder, *, memory: str, cache: Path, copies: int = 1
) -> tuple[Tensor, Path | None]:
    """(N, C, H, W) uint8 in the order of ``files``, and the file that it is mapped from, ``None`` in memory.

    memory: "ram" decodes on each start. "mmap" decodes once, into a file below ``cache`` named by a hash of names,
        sizes, modification times and settings. "auto" is "ram" where ``copies`` of the array fill at most a quarter of
        the free memory.

    Raises:
        DataError: unreadable files, named.
    """
    if memory not in MEMORY:
        raise DataError(f"data.memory is one of {', '.join(MEMORY)}, got {memory!r}")
    shape = (len(files), decoder.channels, decoder.resolution, decoder.resolution)
    if memory == "ram" or (memory == "auto" and copies * int(np.prod(shape)) <= psutil.virtual_memory().available // 4):
        array = np.empty(shape, np.uint8)
        _tell(_fill(array, files, decoder), len(files))
        return torch.from_numpy(array), None
    path = cache / f"{_key(files, decoder)}.npy"
    if not path.exists():
        _write(path, shape, files, decoder)
    if _notes(path).exists():
        _tell(json.loads(_notes(path).read_text(encoding="utf-8")), len(files))
    # copy-on-write: torch requires a writable array, and the file stays as it is
    return torch.from_numpy(np.load(path, mmap_mode="c")), path


def each_file(files: Sequence[Path], do: Callable[[int, Path], Result], what: str) -> list[Result]:
    """``do(i, file)`` of all files, on as many threads as there are processors.

    Raises:
        DataError: of files that cannot be read; many of them are named.
    """

    def tried(row: int, path: Path) -> Result | DataError:
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


def _key(files: Sequence[Path], decoder: Decoder) -> str:
    stats = [(str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    content = json.dumps([stats, asdict(decoder), PIL.__version__, RULES])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _write(path: Path, shape: tuple[int, ...], files: Sequence[Path], decoder: Decoder) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:  # several ranks may write it; each writes the same bytes
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        notes = _fill(array, files, decoder)
        array.flush()
        if notes:
            write_atomic(_notes(path), json.dumps(notes))


def _notes(path: Path) -> Path:
    return path.with_suffix(".json")


def _fill(array: np.ndarray, files: Sequence[Path], decoder: Decoder) -> Notes:
    def decode(row: int, path: Path) -> list[str]:
        array[row], notes = decoder.decode(path)
        return notes

    gathered: Notes = {}
    for path, notes in zip(files, each_file(files, decode, "decoding"), strict=True):
        for note in notes:
            gathered.setdefault(note, []).append(shown(path))
    return gathered


def _tell(notes: Notes, total: int) -> None:
    for note, names in notes.items():
        log.warning("%d of %d images %s: %s", len(names), total, note, first(names))


_WORTH_A_BAR = 500
_NAMED = 20
