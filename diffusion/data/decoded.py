"""Many image files as one uint8 tensor: in memory, or mapped from a file that is written once."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import psutil
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from diffusion.data.image import Decoder
from diffusion.errors import DataError

MEMORY = ("auto", "ram", "mmap")


def decode_all(
    files: Sequence[Path], decoder: Decoder, *, memory: str, cache: Path, copies: int = 1
) -> tuple[Tensor, Path | None]:
    """(N, C, H, W) uint8 in the order of ``files``, and the file that it is mapped from, ``None`` in memory.

    memory: "ram" decodes on each start. "mmap" decodes once, into a file below ``cache`` named by a hash of names,
        sizes, modification times and settings. "auto" is "ram" where ``copies`` of the array fill at most a quarter of
        the free memory.

    Raises:
        DataError: unreadable files, all of them named.
    """
    if memory not in MEMORY:
        raise DataError(f"data.memory is one of {', '.join(MEMORY)}, got {memory!r}")
    shape = (len(files), decoder.channels, decoder.resolution, decoder.resolution)
    if memory == "ram" or (memory == "auto" and copies * int(np.prod(shape)) <= psutil.virtual_memory().available // 4):
        array = np.empty(shape, np.uint8)
        _fill(array, files, decoder)
        return torch.from_numpy(array), None
    path = cache / f"{_key(files, decoder)}.npy"
    if not path.exists():
        _write(path, shape, files, decoder)
    # copy-on-write: torch requires a writable array, and the file stays as it is
    return torch.from_numpy(np.load(path, mmap_mode="c")), path


def _key(files: Sequence[Path], decoder: Decoder) -> str:
    stats = [(str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
    content = json.dumps([stats, asdict(decoder), PIL.__version__])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _write(path: Path, shape: tuple[int, ...], files: Sequence[Path], decoder: Decoder) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part")
    try:
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        _fill(array, files, decoder)
        array.flush()
        os.replace(part, path)  # several ranks may write it; each writes the same bytes
    finally:
        part.unlink(missing_ok=True)


def _fill(array: np.ndarray, files: Sequence[Path], decoder: Decoder) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow releases the GIL while it decodes
        results = pool.map(partial(_decode_into, array, decoder), range(len(files)), files)
        shown = track(
            results,
            f"decoding {len(files)} images",
            total=len(files),
            transient=True,
            disable=len(files) < _WORTH_A_BAR or not Console().is_terminal,
        )
        faults = [fault for fault in shown if fault is not None]
    if faults:
        raise DataError(
            f"{len(faults)} of {len(files)} images cannot be read: {'; '.join(faults)}; mend or remove these files"
        )


def _decode_into(array: np.ndarray, decoder: Decoder, row: int, path: Path) -> str | None:
    try:
        array[row] = decoder(path)
    except Exception as error:  # Pillow raises a dozen kinds for broken files, and every broken file is named
        return f"{path} ({' '.join(str(error).split()) or type(error).__name__})"
    return None


_WORTH_A_BAR = 500
