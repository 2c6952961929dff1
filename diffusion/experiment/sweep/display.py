"""What a sweep shows: cells, progress, time left (plain lines where there is no terminal), and a table at the end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from diffusion.experiment.sweep.plan import Cell

STYLES = {"finished": "green", "skipped": "dim", "running": "cyan", "failed": "red", "preempted": "yellow"}


class View:
    """Watches the folders of a sweep from a thread of its own while the context is open."""

    def __init__(self, cells: Sequence[Cell], console: Console | None = None, every: float = 0.5) -> None:
        self.cells = [cell for cell in cells if cell.same_as is None]
        self.console = console or Console(stderr=True, force_terminal=Console(stderr=True).is_terminal)
        self.every = every
        self._end = threading.Event()
        self._seen: dict[str, str] = {}
        self._start = time.monotonic()

    def __enter__(self) -> View:
        for cell in self.cells:
            self._seen[cell.identity] = state(cell)
        self._live = None
        if self.console.is_terminal:
            # One live display a terminal: jobs of this process find none and write lines, which appear above.
            os.environ.setdefault("TTY_COMPATIBLE", "0")
            self._live = Live(get_renderable=self._render, console=self.console, transient=True, refresh_per_second=2)
            self._live.start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(timeout=5)
        if self._live is not None:
            self._live.stop()
            os.environ.pop("TTY_COMPATIBLE", None)
        else:
            self._tell()

    def _watch(self) -> None:
        while not self._end.wait(self.every):
            if self._live is None:
                self._tell()

    def _tell(self) -> None:
        """A line for each cell that came to a new state."""
        states = {cell.identity: state(cell) for cell in self.cells}
        done = sum(s in ("finished", "skipped", "failed") for s in states.values())
        for cell in self.cells:
            now = states[cell.identity]
            if now != self._seen[cell.identity] and now in ("running", "finished", "failed", "preempted"):
                self._seen[cell.identity] = now
                why = f" ({cell.status.get('reason', '')})" if now == "failed" else ""
                self.console.print(
                    f"[{done}/{len(self.cells)}, {left(self.cells, self._start)}] {cell.name}: {now}{why}",
                    markup=False, highlight=False, soft_wrap=True,
                )  # fmt: skip

    def _render(self) -> Table:
        order = ("running", "failed", "preempted", "waiting", "finished", "skipped")
        states = [state(cell) for cell in self.cells]
        counts = ", ".join(f"{states.count(name)} {name}" for name in order if name in states)
        listed = sorted(self.cells, key=lambda cell: order.index(state(cell)))[: max(5, self.console.height // 2)]
        return _table(listed, f"{counts}, {left(self.cells, self._start)}", progress=True)


def state(cell: Cell) -> str:
    """In one word: finished, skipped, running, failed, preempted, waiting, or the same as another cell."""
    if cell.same_as is not None:
        return "same"
    if cell.skipped:
        return "skipped"
    return str(cell.status.get("status", "waiting"))


def left(cells: Sequence[Cell], start: float) -> str:
    """Time left, from the share of all steps that was done since the start; nothing is known before the first."""
    to_do = [cell for cell in cells if not cell.skipped and cell.same_as is None]
    done = sum(1.0 if state(cell) in ("finished", "failed") else share(cell) for cell in to_do)
    if done <= 0 or not to_do:
        return "time left unknown"
    seconds = (time.monotonic() - start) / done * (len(to_do) - done)
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{int(seconds):02d} left"


def share(cell: Cell) -> float:
    """How much of a running cell's training is done, from the last line of its metrics."""
    if state(cell) != "running" or not cell.steps or cell.steps < 0:
        return 0.0
    return min(1.0, last_step(cell.folder / "metrics.csv") / cell.steps)


def last_step(path: Path) -> int:
    """The step of the last whole line of a ``metrics.csv``, 0 where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        return int(float(lines[-1].split(",")[0]))
    except (OSError, ValueError, IndexError):
        return 0


def table(cells: Sequence[Cell], seconds: float, console: Console | None = None) -> None:
    """All cells, what became of each and why."""
    counts: dict[str, int] = {}
    for cell in cells:
        counts[state(cell)] = counts.get(state(cell), 0) + 1
    summary = ", ".join(f"{count} {name}" for name, count in counts.items())
    (console or Console(stderr=True)).print(_table(cells, f"{summary} in {seconds:.0f} s"))


def _table(cells: Sequence[Cell], title: str, *, progress: bool = False) -> Table:
    shown = Table(title=title, title_justify="left")
    for name in ("cell", "folder", "status", "time", "steps" if progress else "why"):
        shown.add_column(name, overflow="fold")
    for cell in cells:
        status: dict[str, Any] = cell.status
        now = state(cell)
        seconds = status.get("seconds")
        if progress:
            last = f"{share(cell):.0%}" if now == "running" else ""
        else:
            stale = f"before: other code of {cell.stale}" if cell.stale else ""
            last = f"same as {cell.same_as}" if now == "same" else str(status.get("reason", "")) or stale
        shown.add_row(
            Text(cell.name), Text(cell.folder.name), Text(now, STYLES.get(now, "")),
            "" if seconds is None else f"{seconds:.0f} s", Text(last),
        )  # fmt: skip
    return shown
