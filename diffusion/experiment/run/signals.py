"""SIGTERM and Ctrl-C in a run: it stops at once, or at the end of a step where training defers them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from diffusion.errors import Preempted
from diffusion.experiment.process.ranks import rank

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class _State:
    requested: int | None = None
    deferred: bool = False


_state = _State()


def stop_requested() -> int | None:
    """The signal that came, ``None`` where none did."""
    return _state.requested


def defer(on: bool) -> None:
    """Whether a signal waits for whoever checks :func:`stop_requested`, or stops the run at once."""
    _state.deferred = on


def listen() -> list[Any]:
    """Installs the handlers, where this is the main thread -> those that were there before."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [signal.signal(number, _handle) for number in SIGNALS]


def begin() -> tuple[_State, list[Any]]:
    """The start of a run, which may be inside another one -> what :func:`end` restores."""
    global _state
    outer, _state = _state, _State()
    return outer, listen()


def end(before: tuple[_State, list[Any]]) -> None:
    """The end of a run: handlers and state are those from before it."""
    global _state
    _state, handlers = before
    for number, handler in zip(SIGNALS, handlers, strict=False):
        signal.signal(number, handler)


@contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Work that keeps no record of its own: Ctrl-C says what is kept and how to go on.

    Raises:
        Preempted: Ctrl-C, with exit code 130.
    """
    try:
        yield
    except KeyboardInterrupt:
        if rank() == 0:
            print(f"interrupted: {kept}", file=sys.stderr, flush=True)
        raise Preempted(signal.SIGINT) from None


def _handle(signum: int, frame: FrameType | None) -> None:
    again, _state.requested = _state.requested, signum
    if signum == signal.SIGINT and (again or not _state.deferred):  # a second Ctrl-C does not wait
        raise KeyboardInterrupt
    if not _state.deferred:
        raise Preempted(signum)
