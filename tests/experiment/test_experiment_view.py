"""What a sweep shows: cells, states, progress and time left."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from diffusion.experiment.run.status import write_status
from diffusion.experiment.sweep.display import View, last_step, left, share, state
from diffusion.experiment.sweep.plan import Cell


def shown(on: io.StringIO, text: str) -> None:
    """Waits until the view has written the text."""
    deadline = time.monotonic() + 30
    while text not in on.getvalue():
        assert time.monotonic() < deadline, f"{text!r} was never shown: {on.getvalue()}"
        time.sleep(0.01)


def test_the_view_tells_states_progress_and_time_left(tmp_path: Path):
    cells = [Cell([], [f"seed={i}"], tmp_path / str(i), str(i), steps=10) for i in range(3)]
    for cell in cells:
        cell.folder.mkdir()
    cells[2].skipped = True
    plain, screen = io.StringIO(), io.StringIO()
    with View(cells, Console(file=plain, width=100), every=0.01), View(
        cells, Console(file=screen, width=100, force_terminal=True), every=0.01
    ):  # fmt: skip
        write_status(cells[0].folder, {"status": "running", "host": "elsewhere"})
        (cells[0].folder / "metrics.csv").write_text("step,x\n4,0.1\n5,0.2\n")
        assert (share(cells[0]), state(cells[1]), state(cells[2])) == (0.5, "waiting", "skipped")
        shown(plain, "seed=0: running")
        write_status(cells[0].folder, {"status": "failed", "reason": "a bad seed"})
        shown(plain, "seed=0: failed (a bad seed)")
        shown(screen, "1 waiting")
    assert "\x1b" not in plain.getvalue()
    assert "TTY_COMPATIBLE" not in os.environ


def test_time_left_follows_the_share_that_is_done(tmp_path: Path):
    cells = [Cell([], [], tmp_path / str(i), str(i), recorded=False) for i in range(4)]
    assert left(cells, time.monotonic()) == "time left unknown"
    cells[0].result = {"status": "finished"}
    assert left(cells, time.monotonic() - 60) == "0:03:00 left"


@pytest.mark.parametrize(("text", "step"), [("", 0), ("step,x\n", 0), ("step,x\n7,1\n", 7), ("step,x\n7,1\n8", 8)])
def test_the_last_step_of_a_file_that_is_being_written(tmp_path: Path, text: str, step: int):
    (tmp_path / "metrics.csv").write_text(text)
    assert last_step(tmp_path / "metrics.csv") == step
