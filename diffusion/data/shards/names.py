"""Shards by name: files, folders, patterns, and addresses that are fetched once."""

from __future__ import annotations

import glob
import hashlib
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from diffusion.errors import DataError
from diffusion.files import replacing
from diffusion.image_file import shown

log = logging.getLogger(__name__)

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expanded(pattern: str) -> list[str]:
    """ "a-{08..10}.tar" -> a-08.tar, a-09.tar, a-10.tar; "{a,b}.tar" -> a.tar, b.tar."""
    if (found := _BRACES.search(pattern)) is None:
        return [pattern]
    before, inner, after = pattern[: found.start()], found[1], pattern[found.end() :]
    if bounds := _RANGE.fullmatch(inner):
        first, last = bounds.groups()
        words = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        words = inner.split(",")
    return [name for word in words for name in expanded(f"{before}{word}{after}")]


def shard_files(names: str | Sequence[str], cache: Path) -> list[Path]:
    """The files of shards: paths, folders of ``.tar`` files, patterns of both with braces or ``*``, and http(s)
    addresses, which are fetched once into ``cache``. In the order of the names, patterns sorted.

    Raises:
        DataError: one that is not there or cannot be fetched, or none at all.
    """
    files = [file for name in ([names] if isinstance(names, str) else names) for file in _files(name, cache)]
    if not files:
        raise DataError(f"there are no shards in {names}; set data.shards to .tar files")
    if twice := {file for file in files if files.count(file) > 1}:
        raise DataError(f"data.shards names {shown(min(twice))} twice; a sample would count twice, name it once")
    return files


def _files(name: str, cache: Path) -> Iterator[Path]:
    for one in expanded(name):
        if one.startswith(("http://", "https://")):
            yield _fetched(one, cache)
        elif "://" in one or one.startswith("pipe:"):
            raise DataError(f"shards are files or http(s) addresses, got {one}; fetch them and set data.shards")
        elif Path(one).is_dir():
            yield from sorted(Path(one).glob("*.tar"))
        elif glob.has_magic(one):
            yield from map(Path, sorted(glob.glob(one)))
        elif Path(one).is_file():
            yield Path(one)
        else:
            raise DataError(f"there is no shard {shown(Path(one).absolute())}; set data.shards to .tar files")


def _fetched(address: str, cache: Path) -> Path:
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    path = cache / f"{key}-{Path(urlsplit(address).path).name}"
    if path.is_file():
        return path
    log.info("fetching %s", address)
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            _keep(answer, address, path)
    except urllib.error.URLError as error:
        raise DataError(f"the shard {address} cannot be fetched ({error.reason}); set data.shards to files") from None
    return path


def _keep(answer: Any, address: str, path: Path) -> None:
    with replacing(path) as part, part.open("wb") as file:
        while chunk := _read(answer, address):
            file.write(chunk)
        due, got = answer.headers.get("Content-Length"), file.tell()
        if due is not None and int(due) != got:
            raise DataError(f"{address} ended after {got} of {due} bytes; start again")


def _read(answer: IO[bytes], address: str) -> bytes:
    try:
        return answer.read(1 << 20)
    except (OSError, HTTPException) as error:
        raise DataError(f"the shard {address} broke off ({type(error).__name__}); start again") from None


_SECONDS = 20.0
"""Without a response for this long an address counts as unreachable."""
