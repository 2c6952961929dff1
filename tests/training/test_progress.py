"""Log lines of a training are whole, and the time left counts what stops the training on the way."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest

from diffusion.training.callbacks.monitor import Monitor
from diffusion.training.callbacks.pause import Pause, clock
from diffusion.training.callbacks.progress import TrainingProgress
from diffusion.training.callbacks.samples import SampleGrid


class Clock:
    """A clock that a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def trainer(callbacks: list[Any], total: int = 100) -> Any:
    return SimpleNamespace(
        global_step=0, max_steps=total, log_every_n_steps=10, callbacks=callbacks, is_global_zero=True, world_size=1
    )


def lines(
    callbacks: list[Any], clock: Clock, caplog: pytest.LogCaptureFixture, total: int, steps: int, parts: int = 1
) -> list[str]:
    """What is logged over ``steps`` steps of one second, each of ``parts`` batches; a grid takes 30 seconds."""
    progress = next(c for c in callbacks if isinstance(c, TrainingProgress))
    grid = next((c for c in callbacks if isinstance(c, SampleGrid)), None)
    run = trainer(callbacks, total)
    caplog.set_level(logging.INFO, "diffusion.training.callbacks")
    progress.on_train_start(run, None)
    for _ in range(steps):
        for part in range(parts):
            clock.now += 1 / parts
            run.global_step += part == parts - 1
            if grid is not None and part == parts - 1 and run.global_step % grid.every_n_train_steps == 0:
                with grid.pause.taken(run):
                    clock.now += 30
            progress.on_train_batch_end(run, None, {}, {}, 0)
    return [record.getMessage() for record in caplog.records]


def test_accumulated_batches_give_one_whole_line_a_step(monkeypatch, caplog):
    monitor = Monitor()
    monitor.latest = {"train/loss": 0.5, "train/images_per_s": 1234.0}
    said = lines([monitor, TrainingProgress()], Clock(monkeypatch), caplog, total=100, steps=20, parts=4)
    assert said == [
        "step 10 of 100: loss 0.5000, 1,234 images/s, 1:30 left",
        "step 20 of 100: loss 0.5000, 1,234 images/s, 1:20 left",
    ]


def test_without_a_monitor_and_without_an_end(monkeypatch, caplog):
    assert lines([TrainingProgress()], Clock(monkeypatch), caplog, total=-1, steps=10) == ["step 10"]


def test_time_left_counts_grids_and_the_evaluation(monkeypatch, caplog):
    """70 steps of a second, grids at 40, 60, 80 and at the last step (90) of 30 s, 160 samples of 30 / 16 s each."""
    grid = SampleGrid(every_n_train_steps=20, num_samples=16)
    said = lines([grid, TrainingProgress(scored=80, repeats=2)], Clock(monkeypatch), caplog, total=90, steps=20)
    assert said == [
        "step 10 of 90: 1:20 left",
        "step 20: drawing 16 samples; training waits",
        f"step 20 of 90: {clock(70 + 4 * 30 + 160 * 30 / 16)} left",
    ]


def test_a_long_pause_is_announced_with_its_time_and_a_short_one_once(monkeypatch, caplog):
    time_, run, pause = Clock(monkeypatch), trainer([]), Pause("drawing", 10)
    caplog.set_level(logging.INFO, "diffusion.training.callbacks")
    for seconds in (75.0, 1.0, 1.0):
        with pause.taken(run):
            time_.now += seconds
    assert [r.getMessage() for r in caplog.records] == [
        "step 0: drawing; training waits",
        "step 0: drawing, about 1:15; training waits",
    ]
    assert pause.spent == 77.0
