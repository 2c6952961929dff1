"""A bar with loss, images a second and time left in a terminal; a line every log interval elsewhere."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks.callback import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from diffusion.training.callbacks.monitor import Monitor, log_interval
from diffusion.training.callbacks.pause import Pause, clock
from diffusion.training.callbacks.samples import SampleGrid

log = logging.getLogger(__name__)


class TrainingProgress(Callback):
    """Shows how far training is: a live bar where the output is a terminal, log lines where it is not.

    The time left counts grids of samples and scores that are still to come, each as long as the last one was, and the
    samples of the final evaluation, each as long as one of the last grid.

    Args:
        scored: samples that the final evaluation draws, ``None`` where that is for its reference to say.
        repeats: how many times.
    """

    def __init__(self, scored: int | None = None, repeats: int | None = None) -> None:
        self.scored = (scored or 0) * (repeats or 1)
        self._bar: Progress | None = None
        self._task: Any = None
        self._start = (0, 0.0)
        self._shown = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = (trainer.global_step, time.perf_counter())
        self._shown = trainer.global_step  # the first step may take several batches
        console = Console(stderr=True)
        if not (trainer.is_global_zero and console.is_terminal):
            return
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
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
            self._bar.update(self._task, completed=step)
            if logged:
                self._bar.update(self._task, facts=self._words(trainer))
        elif logged and trainer.is_global_zero:
            total = f" of {trainer.max_steps}" if trainer.max_steps > 0 else ""
            words = self._words(trainer)
            log.info("step %d%s%s", step, total, f": {words}" if words else "")
        if logged:
            self._shown = step

    def _words(self, trainer: pl.Trainer) -> str:
        return ", ".join(filter(None, (_facts(trainer), self._left(trainer))))

    def _left(self, trainer: pl.Trainer) -> str:
        """What is left, in words; nothing where training has no last step."""
        step, total, (first, began) = trainer.global_step, trainer.max_steps, self._start
        if total < 1:
            return ""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        pauses = [callback.pause for callback in callbacks if isinstance(getattr(callback, "pause", None), Pause)]
        training = time.perf_counter() - began - sum(pause.spent for pause in pauses)
        left = training / max(step - first, 1) * (total - step) + sum(pause.left(step, total) for pause in pauses)
        for callback in callbacks:
            if isinstance(callback, SampleGrid) and callback.pause.last is not None:
                left += callback.pause.last / callback.num_samples * self.scored / trainer.world_size
        return f"{clock(left)} left"

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
