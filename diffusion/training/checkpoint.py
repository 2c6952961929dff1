"""Checkpoints: the last state, always whole, and kept copies where they are wanted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks.callback import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

LAST = Path("checkpoints") / "last.ckpt"


class Checkpoint(Callback):
    """``checkpoints/last.ckpt`` every n optimizer steps, at the end, and when SIGTERM stops the run.

    A file is written beside its place and moved there, so that a kill at any moment leaves the one before. It holds
    raw and averaged weights, optimizer, loops, and the loader's position; it loads with ``weights_only=True``.

    Args:
        every_n_train_steps: optimizer steps between two saves; a kill loses at most these.
        keep_every_n_steps: keep a copy ``step_<n>.ckpt`` at these multiples, ``None`` for the last only.
    """

    def __init__(self, every_n_train_steps: int = 500, keep_every_n_steps: int | None = None) -> None:
        for name, value in (("every_n_train_steps", every_n_train_steps), ("keep_every_n_steps", keep_every_n_steps)):
            if value is not None and value < 1:
                raise ValueError(f"callbacks.checkpoint.{name} is a number of steps, at least 1, got {value}")
        self.every_n_train_steps = every_n_train_steps
        self.keep_every_n_steps = keep_every_n_steps
        self._saved = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = step % self.every_n_train_steps == 0
        keep = self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0
        if step != self._saved and (due or keep):
            self._save(trainer, keep)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._saved:
            self._save(trainer, keep=False)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and trainer.global_step != self._saved:
            self._save(trainer, keep=False)

    def _save(self, trainer: pl.Trainer, keep: bool) -> None:
        path = Path(trainer.default_root_dir) / LAST
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name("last.ckpt.part")
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            os.replace(beside, path)
            if keep:
                shutil.copyfile(path, path.with_name(f"step_{trainer.global_step:07d}.ckpt"))
        trainer.strategy.barrier("saved")  # what a rank does next may read it
        self._saved = trainer.global_step
