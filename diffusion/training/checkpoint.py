"""Checkpoints: the last state, always whole, and kept copies where they are wanted."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks.callback import Callback
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from diffusion.errors import DivergedError
from diffusion.files import replacing

LAST = Path("checkpoints") / "last.ckpt"


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint where it shall lie; Lightning's own goes through the temporary folder, which may be small."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with Path(path).open("wb") as file:
            torch.save(checkpoint, file)


class Checkpoint(Callback):
    """``checkpoints/last.ckpt`` every n optimizer steps, at the end, and when SIGTERM stops the run.

    A file is written beside its place and moved there, so that a kill at any moment leaves the one before. It holds
    raw and averaged weights, optimizer, loops, and the loader's position; it loads with ``weights_only=True``.

    Weights that are not finite are not saved: training has diverged, and the file from before is kept.
    A disk that refuses it raises :class:`diffusion.errors.DiskError`; the one before stays whole.

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
        if not _finite(trainer.lightning_module):
            raise diverged(trainer, "some weights are not finite")
        folder = Path(trainer.default_root_dir)
        path = folder / LAST
        with replacing(path, inside=folder) if trainer.is_global_zero else nullcontext(path) as beside:
            trainer.save_checkpoint(beside)
        if keep and trainer.is_global_zero:
            with replacing(path.with_name(f"step_{trainer.global_step:07d}.ckpt")) as copy:
                shutil.copyfile(path, copy)
        trainer.strategy.barrier("saved")  # what a rank does next may read it
        self._saved = trainer.global_step


def diverged(trainer: pl.Trainer, what: str) -> DivergedError:
    """The error for a training in which ``what`` is wrong: what is kept, and how to go on."""
    run = Path(trainer.default_root_dir)
    saved = (run / LAST).is_file()
    kept = f"{run / LAST}, the last with finite weights, is kept" if saved else "no checkpoint was saved before"
    begin = f"go on from it with resume={run}, or start" if saved else "start"
    return DivergedError(
        f"{what} at step {trainer.global_step}: training has diverged; {kept}; {begin} again, with a lower "
        "optimizer.lr or a longer lr_scheduler.warmup; debug=anomaly looks for the first bad value"
    )


def _finite(module: pl.LightningModule) -> bool:
    """Are all weights numbers? Of a sharded module, this rank's share."""
    local = [getattr(p, "to_local", lambda p=p: p)() for p in module.parameters()]
    return bool(torch.stack([p.detach().isfinite().all() for p in local]).all())
