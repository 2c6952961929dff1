"""Files that are written whole or not at all, and the hash of a file."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, moved there at the end: a reader never meets half a file.

    What was written is removed where the writer fails. Several processes may write the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Text (as UTF-8) or bytes, whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def numbered(path: Path, number: int) -> Path:
    """``config.yaml`` -> ``config-2.yaml``: what a run wrote when it was continued; 1 is the file itself."""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def newest(path: Path) -> Path:
    """The last of ``config.yaml``, ``config-2.yaml``, ...; the file itself where there is no other."""
    numbers = (found.stem.rpartition("-")[2] for found in path.parent.glob(f"{path.stem}-*{path.suffix}"))
    return numbered(path, max((int(number) for number in numbers if number.isdigit()), default=1))


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
