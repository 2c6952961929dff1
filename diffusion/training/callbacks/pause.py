"""What stops a training now and then, such as a grid of samples: announced, measured, and counted as time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl

log = logging.getLogger(__name__)

LONG = 5.0
"""Seconds from which a pause is announced each time; the first one always is, since nobody knows how long it takes."""


class Pause:
    """One kind of pause.

    Args:
        what: it is, for the log.
        every: optimizer steps between two.
        at_end: one more at the last step, where that is no multiple of ``every``.
    """

    def __init__(self, what: str, every: int, *, at_end: bool = False) -> None:
        self.what, self.every, self.at_end = what, every, at_end
        self.last: float | None = None
        """Seconds that the last one took, ``None`` before the first."""
        self.spent = 0.0
        """Seconds of all of them so far."""

    @contextmanager
    def taken(self, trainer: pl.Trainer) -> Iterator[None]:
        """Measures one, and says beforehand that it comes."""
        if trainer.is_global_zero and (self.last is None or self.last >= LONG):
            how_long = "" if self.last is None else f", about {clock(self.last)}"
            log.info("step %d: %s%s; training waits", trainer.global_step, self.what, how_long)
        began = time.perf_counter()
        yield
        self.last = time.perf_counter() - began
        self.spent += self.last

    def left(self, step: int, total: int) -> float:
        """Seconds of those that come after ``step`` up to ``total``, each as long as the last one was."""
        count = total // self.every - step // self.every + (self.at_end and total % self.every > 0)
        return count * (self.last or 0.0)


def clock(seconds: float) -> str:
    """``0:45``, ``12:05``, ``3:20:00``."""
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
