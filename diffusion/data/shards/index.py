"""What a tar shard holds and where: made once and kept, so that any member is read without those before it."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from diffusion.errors import DataError
from diffusion.files import sha256_of, write_atomic
from diffusion.image_file import RULES, Encoded, has_image_suffix, image_size, shown

_BLOCK = 512
"""Members of a tar file begin at multiples of it, and a block of zeros ends it (POSIX.1-2001, pax)."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file, with the hash of its content."""

    path: Path
    sha256: str


class Member(Encoded):
    """One file in a shard. size: (height, width) of an image."""

    def __init__(self, shard: Shard, name: str, offset: int, length: int, size: tuple[int, int] | None = None) -> None:
        self.shard, self.name, self.offset, self.length, self.size = shard, name, offset, length, size
        self.identity = f"{shard.sha256}:{offset}:{length}"

    def __str__(self) -> str:
        return shown(f"{self.shard.path}: {self.name}")

    def read(self) -> bytes:
        try:
            with self.shard.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.length)
        except OSError as error:
            raise DataError(f"{self} cannot be read: {error.strerror}") from None
        if len(content) < self.length:
            raise DataError(f"{self} is cut short: the shard changed since it was indexed; restore it")
        return content


def index_all(files: Sequence[Path], cache: Path) -> list[list[Member]]:
    """The members of each shard in their order, from the index in ``cache`` of a file of this size and time.

    Raises:
        DataError: a shard that is cut short or damaged, or an image that cannot be read, with its shard and member.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda file: _indexed(file, cache), files))


def _indexed(file: Path, cache: Path) -> list[Member]:
    stat = file.stat()
    key = json.dumps([str(file.resolve()), stat.st_size, stat.st_mtime_ns, RULES])
    kept = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if kept.is_file():
        content = json.loads(kept.read_text(encoding="utf-8"))
        shard = Shard(file, content["sha256"])
        return [Member(shard, name, at, n, size and tuple(size)) for name, at, n, size in content["members"]]
    shard = Shard(file, sha256_of(file))
    members = _scan(shard)
    for member in members:
        if has_image_suffix(member.name):
            member.size = image_size(member)
    kept.parent.mkdir(parents=True, exist_ok=True)
    rows = [[member.name, member.offset, member.length, member.size] for member in members]
    write_atomic(kept, json.dumps({"sha256": shard.sha256, "members": rows}))
    return members


def _scan(shard: Shard) -> list[Member]:
    path, total = shard.path, shard.path.stat().st_size
    members: list[Member] = []
    end = 0
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                end = entry.offset_data + (-(-entry.size // _BLOCK) * _BLOCK if entry.isreg() else 0)
                if end > total:
                    raise DataError(
                        f"the shard {shown(path)} is cut short in its member {shown(entry.name)}, which ends at {end} "
                        f"of {total} bytes; fetch it again"
                    )
                if entry.isreg():
                    members.append(Member(shard, entry.name, entry.offset_data, entry.size))
    except tarfile.ReadError as error:
        if not members:
            raise DataError(
                f"{shown(path)} is no tar file ({error}); shards are .tar files without compression, in which members "
                "are found by their places"
            ) from None
    with path.open("rb") as file:
        file.seek(end)
        after = file.read(_BLOCK)
    if after != bytes(_BLOCK):
        last = shown(members[-1].name) if members else "its beginning"
        what = "cut short" if len(after) < _BLOCK else "damaged"
        raise DataError(
            f"the shard {shown(path)} is {what} after {last}: the end of a tar file is not there; fetch it again"
        )
    return members
