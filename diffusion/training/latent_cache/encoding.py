"""A file of moments that fills up image by image: what was encoded once stays, whoever is killed."""

from __future__ import annotations

import fcntl
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.data.split import Split
from diffusion.errors import DataError
from diffusion.files import allocate, disk_errors, write_atomic

log = logging.getLogger(__name__)


class Encoding:
    """The moments of a split's images in ``path``, float32, those of mirrored images N rows below where ``flip``.

    While it grows it is ``<stem>.part``, and ``<stem>.done`` holds a byte for each image, 1 where its rows are
    written: any number of ranks resumes there. ``<stem>.lock`` lets one job at a time write.
    """

    def __init__(self, path: Path, split: Split, flip: bool) -> None:
        self.path, self.split, self.flip = path, split, flip
        self.part, self.done, self.lock = (path.with_suffix(f".{word}") for word in ("part", "done", "lock"))
        self._held: IO[str] | None = None

    def claim(self) -> bool:
        """Is this job the one that writes? Rank 0 tries, until it is or the file is there."""
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            held = self.lock.open("w")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            return False
        except OSError:  # a file system without locks: two jobs would write the same numbers
            pass
        self._held = held
        return True

    @torch.no_grad()
    def begin(self, coder: Autoencoder, device: torch.device) -> None:
        """Makes both files where there are none to resume; rank 0 alone.

        Raises:
            DataError: the folder has no room.
        """
        if self.part.is_file() and self.done.is_file():
            missing = len(self.missing())
            log.info("resuming %s: %d of %d images are left to encode", self.path, missing, len(self.split))
            return
        self.done.unlink(missing_ok=True)  # of a file that is gone
        one = coder.moments(self.split.batch(torch.arange(1))["image"].to(device))
        shape = (len(self.split) * (1 + self.flip), *one.shape[1:])
        need, free = 4 * int(np.prod(shape)), shutil.disk_usage(self.path.parent).free
        if need > free:
            raise DataError(
                f"the latents of {len(self.split)} images take {need / 1e9:.1f} GB, and {self.path.parent} has "
                f"{free / 1e9:.1f} GB left; set callbacks.latents.folder to a larger disk, or train without it"
            )
        log.info("encoding %d images once, %.1f GB in %s", shape[0], need / 1e9, self.path)
        with disk_errors(self.part):
            np.lib.format.open_memmap(self.part, mode="w+", dtype=np.float32, shape=shape).flush()
            try:
                allocate(self.part, self.part.stat().st_size)
            except OSError:
                self.part.unlink()
                raise
        write_atomic(self.done, bytes(len(self.split)))

    @torch.no_grad()
    def fill(self, coder: Autoencoder, device: torch.device, rows: Tensor, quiet: bool = False) -> None:
        """Writes what the images ``rows`` (n,) int64 are encoded as.

        quiet: without a bar.
        """
        array, done = np.load(self.part, mmap_mode="r+"), np.memmap(self.done, np.uint8, "r+")
        written: list[Tensor] = []
        saved = time.monotonic()
        for batch in _shown(rows.split(getattr(coder, "max_batch", 16)), len(rows), quiet):
            image = self.split.batch(batch)["image"].to(device)
            array[batch.numpy()] = coder.moments(image).cpu().numpy()
            if self.flip:
                array[batch.numpy() + len(self.split)] = coder.moments(image.flip(-1)).cpu().numpy()
            written.append(batch)
            if time.monotonic() - saved > SAVED_EVERY:
                _save(array, done, written)
                saved = time.monotonic()
        _save(array, done, written)

    def missing(self) -> Tensor:
        """The images (n,) int64 that are still to be encoded: listed by all ranks before one of them writes.

        Raises:
            DataError: the files are not there: the ranks do not share the folder.
        """
        if not self.done.is_file():
            raise DataError(f"{self.done} is not there for every rank; name a folder that all of them share")
        return torch.from_numpy(np.flatnonzero(np.fromfile(self.done, np.uint8) == 0))

    def finish(self) -> None:
        """Names the finished file; rank 0, when all ranks have written."""
        self.part.replace(self.path)
        self.done.unlink()

    def release(self) -> None:
        """Lets other jobs write; what was written stays."""
        if self._held is not None:
            self.lock.unlink(missing_ok=True)
            self._held.close()
            self._held = None

    def mapped(self) -> Tensor:
        """The moments, copy-on-write: torch requires a writable array, and the file stays as it is."""
        return torch.from_numpy(np.load(self.path, mmap_mode="c"))


SAVED_EVERY = 10.0
"""Seconds between two looks of the disk at what was written."""
_WORTH_A_BAR = 500


def _save(array: np.memmap[Any, Any], done: np.memmap[Any, Any], written: list[Tensor]) -> None:
    """Rows first, then the word that they are there."""
    array.flush()
    for batch in written:
        done[batch.numpy()] = 1
    done.flush()
    written.clear()


def _shown(batches: tuple[Tensor, ...], count: int, quiet: bool) -> Iterator[Tensor]:
    hidden = quiet or count < _WORTH_A_BAR or not Console().is_terminal
    yield from track(batches, f"encoding {count} images", transient=True, disable=hidden)
