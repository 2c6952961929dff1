"""Files that are written whole or not at all, what a disk refuses in one sentence, and the hash of a file."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from diffusion.errors import DiskError

ADVICE = {
    errno.ENOSPC: "make room there, or give a folder on another disk",
    errno.EDQUOT: "make room there, or give a folder on another disk",
    errno.EROFS: "give a folder that can be written to",
    errno.EACCES: "give a folder that you may write to",
    errno.EPERM: "give a folder that you may write to",
    errno.ENAMETOOLONG: "give a shorter name or folder",
    errno.ENOTDIR: "give a path whose folders are no files",
    errno.ENOENT: "a disk or folder is gone, bring it back",
}
"""What to do about what a system says; of anything else: look at the disk."""
_PROBE = bytes(1 << 16)
CHUNK = 1 << 20
"""Bytes that are hashed at a time: few enough to lie in a core's cache still when they have been read."""


@contextmanager
def replacing(path: Path, inside: Path | None = None) -> Iterator[Path]:
    """A path beside ``path`` to write to, moved there at the end: a reader never meets half a file.

    What was written is removed where the writer fails. Several processes may write the same file.

    inside: a folder that must be there: where its disk is gone, it is not made again on another one.

    Raises:
        DiskError: the system does not let it be written.
    """
    beside = path.with_name(f".{uuid.uuid4().hex[:12]}.part")
    try:
        with disk_errors(path):
            if inside is not None:
                inside.stat()
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield beside
            except OSError:
                raise
            except Exception:  # libraries that write by themselves lose the reason: it is asked for again
                with beside.open("ab") as file:
                    file.write(_PROBE)
                raise
            os.replace(beside, path)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` to fill, moved there at the end: it is there as a whole or not at all.

    Raises:
        DiskError: it cannot be made or moved.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with disk_errors(part):
            part.mkdir(parents=True)
        yield part
        with disk_errors(folder):
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A system's error in writing ``path`` becomes a sentence.

    Raises:
        DiskError: in its place.
    """
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        code = error.errno or errno.ENOSPC  # numpy writes less than it was given, and does not say why
        code = errno.ENOTDIR if code == errno.EEXIST else code  # a file where a folder is to be made
        advice = ADVICE.get(code, "look whether the disk is still there")
        raise DiskError(f"{path} cannot be written: {os.strerror(code)}; {advice}") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Text (as UTF-8) or bytes, whole or not at all.

    Raises:
        DiskError: the system does not let it be written.
    """
    with replacing(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def numbered(path: Path, number: int) -> Path:
    """``config.yaml`` -> ``config-2.yaml``: what a run wrote when it was continued; 1 is the file itself."""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def newest(path: Path) -> Path:
    """The last of ``config.yaml``, ``config-2.yaml``, ...; the file itself where there is no other."""
    numbers = (found.stem.rpartition("-")[2] for found in path.parent.glob(f"{path.stem}-*{path.suffix}"))
    return numbered(path, max((int(number) for number in numbers if number.isdigit()), default=1))


def allocate(path: Path, size: int) -> None:
    """Room for ``size`` bytes of an existing file that will be mapped: a full disk would kill the process later.

    Raises:
        DiskError: there is not so much.
    """
    with disk_errors(path), path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def check_writable(folder: Path) -> None:
    """Writes a little in ``folder``, or in the one that it will be made in, and takes it away again.

    Raises:
        DiskError: nothing can be written there.
    """
    with disk_errors(folder):
        there = folder
        while not there.exists() and there != there.parent:
            there = there.parent
        longest = os.pathconf(there, "PC_NAME_MAX")
        for part in folder.relative_to(there).parts:
            if len(os.fsencode(part)) > longest:
                raise OSError(errno.ENAMETOOLONG, part)
        probe = there / f".{uuid.uuid4().hex[:12]}.part"
        try:
            probe.write_bytes(_PROBE)
        finally:
            probe.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name of the same file, which costs no room and outlives the first; a copy on another disk."""
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, one without links, or a file of another user
        shutil.copyfile(source, target)


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def hashing(paths: Sequence[Path], known: Mapping[Path, str] | None = None) -> Iterator[Callable[[], list[str]]]:
    """The SHA-256 of files, computed beside the work of the block -> what waits for them.

    A file is read while what came before is hashed. A block that fails does not wait.

    known: those that need not be computed.
    """
    stop, known = threading.Event(), known or {}

    def of(path: Path) -> str:
        if path in known:
            return known[path]
        digest, size = hashlib.sha256(), min(CHUNK, path.stat().st_size)
        now, then = (memoryview(bytearray(size)) for _ in range(2))
        with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as reader:
            coming = reader.submit(file.readinto, now)
            while (count := coming.result()) and not stop.is_set():
                coming = reader.submit(file.readinto, then)
                digest.update(now[:count])
                now, then = then, now
        return digest.hexdigest()

    with ThreadPoolExecutor() as pool:
        hashes = [pool.submit(of, path) for path in paths]
        try:
            yield lambda: [each.result() for each in hashes]
        finally:
            stop.set()
