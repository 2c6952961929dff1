"""``environment.json``: what a run's numbers depend on beside its config. It names no machine and no user."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from diffusion import __version__
from diffusion.experiment.process.allocator import allocator

REPOSITORY = Path(__file__).resolve().parents[3]


def environment() -> dict[str, Any]:
    """This project's version, its code, packages, Python, device and command."""
    return {
        "version": __version__,
        "git": dict(_git()),
        "command": " ".join([Path(sys.argv[0]).name, shlex.join(sys.argv[1:])]).strip(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "device": device(),
        "allocator": allocator(),
        "packages": _packages(),
    }


def device() -> dict[str, Any] | None:
    """What torch computes on, ``None`` until something else has loaded torch."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda"):
        return None
    found: dict[str, Any] = {"type": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found |= {"type": "cuda", "names": names, "cuda": torch.version.cuda}
    return found


@functools.cache
def _git() -> tuple[tuple[str, Any], ...]:
    commit = _git_output("rev-parse", "HEAD")
    if commit is None:
        return (("commit", None),)
    changed = _git_output("status", "--porcelain") or ""
    diff = _git_output("diff", "HEAD") or ""
    dirty = bool(changed.strip())
    mark = hashlib.sha256((changed + diff).encode()).hexdigest()[:16] if dirty else None
    return (("commit", commit.strip()), ("dirty", dirty), ("diff_sha256", mark))


def _git_output(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


@functools.cache
def _packages() -> dict[str, str]:
    found = {str(d.metadata["Name"]).lower(): d.version for d in distributions() if d.metadata["Name"]}
    return dict(sorted(found.items()))
