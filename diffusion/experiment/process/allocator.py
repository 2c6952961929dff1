"""Freed memory stays in the process: glibc gives large tensors back to the kernel and faults their pages in again."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): how much free memory the heap keeps, and from which size blocks are mapped apart."""
_kept = False


def keep_freed_memory() -> bool:
    """Tells the C library to keep what is freed, for the rest of this process -> whether it does.

    Only glibc has the call; elsewhere nothing happens. What is computed does not change.
    """
    global _kept
    if not _kept and sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        _kept = mallopt is not None and bool(
            mallopt(M_MMAP_THRESHOLD, 1 << 30) and mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        )
    return _kept


def allocator() -> str:
    """What a record says of this process."""
    return "keeps freed memory" if _kept else "system"
