"""Data sets that torchvision finds in a folder or downloads into it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from diffusion.errors import DataError

Found = TypeVar("Found")


def fetch(build: Callable[[bool], Found], dataset: str, root: Path, download: bool) -> Found:
    """``build(False)`` where the files are there, otherwise ``build(True)``, which downloads them.

    Raises:
        DataError: they are missing and cannot be downloaded, or are broken.
    """
    try:
        return build(False)
    except _TORCHVISION_ERRORS as error:
        place = f"{dataset} is not, or not whole, in the folder {root.resolve()}"
        if not download:
            raise DataError(f"{place}; set data.root to where it is, or data.download=true") from error
    try:
        with _patience(_SECONDS):
            return build(True)
    except _TORCHVISION_ERRORS as error:
        raise DataError(
            f"{place} and cannot be downloaded ({_short(error)}); "
            f"put torchvision's files of {dataset} there, or set data.root to where they are"
        ) from None


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"[:160]


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


_TORCHVISION_ERRORS = (OSError, RuntimeError, ValueError, ImportError, AssertionError, EOFError)
"""What torchvision raises for missing, truncated and unreachable files; URLError is an OSError."""
_SECONDS = 20.0
"""Without a response for this long a mirror counts as unreachable."""
