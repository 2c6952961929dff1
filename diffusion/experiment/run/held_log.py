"""A log file that is not touched before its run has begun."""

from __future__ import annotations

import logging


class HeldLog(logging.FileHandler):
    """Keeps its lines until :meth:`write_through`, and writes nothing where that never comes."""

    def __init__(self, filename: str, mode: str = "a", encoding: str | None = "utf-8") -> None:
        super().__init__(filename, mode, encoding, delay=True)
        self._held: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        if self._held is None:
            super().emit(record)
        else:
            self._held.append(record)

    def write_through(self) -> None:
        """Writes what was kept, and every line from now on."""
        held, self._held = self._held, None
        for record in held or ():
            super().emit(record)


def release() -> None:
    """Releases the log of this process, where it is held."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, HeldLog):
            handler.write_through()
