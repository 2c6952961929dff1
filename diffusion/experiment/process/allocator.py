"""Freed memory stays in the process: glibc returns large blocks to the kernel and faults their pages in again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): how much free memory the heap keeps, and from which size blocks are mapped separately."""
_kept = False


def keep_freed_memory() -> bool:
    """Makes the C library keep what is freed, for the rest of this process -> whether it does.

    Only glibc has the call; elsewhere nothing happens. The numbers that are computed do not change.
    """
    global _kept
    if not _kept and sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        _kept = mallopt is not None and bool(
            mallopt(M_MMAP_THRESHOLD, 1 << 30) and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        )
    return _kept


def set_allocator(cfg: Mapping[Any, Any]) -> None:
    """Applies ``keep_freed_memory`` of a script's config; called where a process begins a job."""
    if cfg.get("keep_freed_memory"):
        keep_freed_memory()


def allocator() -> str:
    """The setting of this process, as records name it."""
    return "keeps freed memory" if _kept else "system"
