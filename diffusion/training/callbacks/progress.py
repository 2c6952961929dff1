"""A bar with loss, images a second and time left in a terminal; a line every log interval elsewhere."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks.callback import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diffusion.training.callbacks.monitor import Monitor, log_interval

log = logging.getLogger(__name__)


class TrainingProgress(Callback):
    """Shows how far training is: a live bar where the output is a terminal, log lines where it is not."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None
        self._start = (0, 0.0)
        self._shown = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = (trainer.global_step, time.perf_counter())
        console = Console(stderr=True)
        if not (trainer.is_global_zero and console.is_terminal):
            return
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self._task = self._bar.add_task("training", total=total, completed=trainer.global_step, facts="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        logged = step % log_interval(trainer) == 0 and step != self._shown
        if self._bar is not None:
            if logged:
                self._bar.update(self._task, completed=step, facts=_facts(trainer))
            else:
                self._bar.update(self._task, completed=step)
        elif logged and trainer.is_global_zero:
            first, began = self._start
            left = (time.perf_counter() - began) / max(step - first, 1) * (trainer.max_steps - step)
            log.info("step %d of %d: %s, %s left", step, trainer.max_steps, _facts(trainer), _clock(left))
        if logged:
            self._shown = step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _facts(trainer: pl.Trainer) -> str:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    latest = next((c.latest for c in callbacks if isinstance(c, Monitor)), {})
    parts = []
    if "train/loss" in latest:
        parts.append(f"loss {latest['train/loss']:.4f}")
    if "val/loss" in latest:
        parts.append(f"test loss {latest['val/loss']:.4f}")
    if "train/images_per_s" in latest:
        parts.append(f"{latest['train/images_per_s']:,.0f} images/s")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
