"""``status.json``: what became of a run. Reading it costs no torch, since comparisons read thousands of them.

    {"status": "running" | "finished" | "failed" | "preempted", "reason": ..., "traceback": <file>, "pid": ...,
     "host": ..., "started": ..., "ended": ..., "seconds": ..., "segments": ..., "identity": ..., "overrides": [...]}

A run that was killed cannot say so: its file still says running. Read on the machine that it ran on, it is failed,
with ``"killed": true``, once its process is gone.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffusion.errors import DiskError
from diffusion.files import disk_errors, write_atomic

FILE = "status.json"
SKIPPED = "skipped"
"""What a job returns whose result was there already."""


def read_status(folder: Path) -> dict[str, Any] | None:
    """A run's status as it is now, ``None`` where the folder has none or it was cut short in the writing."""
    try:
        status = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(status, dict) or "status" not in status:
        return None
    if status["status"] == "running" and status.get("host") == host() and not _alive(status):
        status |= {"status": "failed", "killed": True, "reason": f"killed: process {status.get('pid')} is gone"}
    return status


def place(parent: Path, identity: str, holds: Callable[[Path], bool] = lambda folder: True) -> Path:
    """The folder of the run with this identity: the last of ``<identity>``, ``<identity>-2``, ... that holds it, else
    the first that holds no run. A run that was continued with other settings keeps its folder, and is another run from
    then on; so does a finished one that does not hold any more.

    holds: does the finished run in a folder hold?
    """
    mine = None
    for n in itertools.count(1):
        folder = parent / (identity if n == 1 else f"{identity}-{n}")
        status = read_status(folder) or {}
        if status.get("identity") is None:
            return mine or folder
        if status["identity"] == identity and (status["status"] != "finished" or holds(folder)):
            mine = folder
    raise AssertionError  # counting has no end


def wait(folder: Path) -> str | None:
    """The status of a run once no other process is at it, ``None`` where it has none."""
    while (status := read_status(folder) or {}).get("status") == "running" and status.get("pid") != os.getpid():
        time.sleep(0.2)
    return status.get("status")


def write_status(folder: Path, status: Mapping[str, Any]) -> None:
    """Whole or not at all, whatever happens in between; on a disk that is full, in the place that the file has.

    Raises:
        DiskError: neither is possible.
    """
    text = json.dumps(status, indent=2) + "\n"
    try:
        write_atomic(folder / FILE, text)
    except DiskError:
        with disk_errors(folder / FILE), (folder / FILE).open("r+", encoding="utf-8") as file:
            file.write(text)
            file.truncate()


def process() -> dict[str, Any]:
    """This process, so that others can tell later whether it lives: pids come again, start times do not."""
    return {"pid": os.getpid(), "born": _born(os.getpid()), "host": host()}


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def host() -> str:
    """Tells one machine (and one container of it) from another without naming it; another after a reboot."""
    parts = []
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read())
        except OSError:
            parts.append(hex(uuid.getnode()))
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def _alive(status: Mapping[str, Any]) -> bool:
    pid = status.get("pid")
    if not isinstance(pid, int):
        return False
    born = _born(pid)
    return born is not None and status.get("born") in (born, None)


def _born(pid: int) -> float | None:
    """When a process started, ``None`` where there is none (or only its corpse, not yet collected)."""
    import psutil

    try:
        found = psutil.Process(pid)
        return None if found.status() == psutil.STATUS_ZOMBIE else float(found.create_time())
    except psutil.Error:
        return None
