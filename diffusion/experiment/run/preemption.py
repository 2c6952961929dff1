"""SIGTERM in training: finish the step, save, stop, on all ranks at the same step."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks.callback import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException

from diffusion.experiment.run.signals import defer, listen, stop_requested


class Preemption(Callback):
    """Raises Lightning's ``SIGTERMException`` after the optimizer step in which SIGTERM reached any rank.

    Lightning's own handler exchanges messages between ranks in the middle of whatever they do, which hangs where the
    signal reaches all of them, and stops between two accumulated batches; it is replaced while training runs.
    """

    def __init__(self) -> None:
        self._step = 0
        self._group: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step
        if trainer.world_size > 1:  # on the host: a flag on the GPU would cost a synchronisation at every step
            self._group = dist.new_group(backend="gloo")
        defer(True)
        listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # between two accumulated batches: a checkpoint would lose the first
        self._step = trainer.global_step
        stop = stop_requested() is not None
        if self._group is not None:
            anywhere = torch.tensor(int(stop))
            dist.all_reduce(anywhere, dist.ReduceOp.MAX, group=self._group)
            stop = bool(anywhere)
        if stop:
            raise SIGTERMException

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        defer(False)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        defer(False)
