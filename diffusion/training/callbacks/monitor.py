"""What training tells: loss, loss per noise level, learning rate, speed; every k steps, never each step."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks.callback import Callback
from torch import Tensor
from torchmetrics.aggregation import MeanMetric
from torchmetrics.metric import Metric

from diffusion.training.checkpoint import diverged
from diffusion.training.flops import STEP, arithmetic, peak
from diffusion.training.module.diffusion import DiffusionModule

log = logging.getLogger(__name__)


class LossByLevel(Metric):
    """Mean loss, over all times and over ``bins`` equal parts of t in (0, 1]; exact over ranks (sums are reduced).

    name: what :meth:`compute` calls it.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, bins: int = 10, name: str = "loss") -> None:
        super().__init__()
        self.bins = bins
        self.name = name
        self.timed = True
        self.add_state("total", torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(bins, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, t: Tensor | None) -> None:
        """loss (B,) at times t (B,), of which there may be none."""
        self.timed = t is not None
        if t is None:
            t = torch.ones_like(loss)
        bin_ = (t.double() * self.bins).ceil().long().clamp(1, self.bins) - 1
        self.total.index_add_(0, bin_, loss.double())
        self.count.index_add_(0, bin_, torch.ones_like(bin_, dtype=torch.float64))

    def compute(self) -> dict[str, Tensor]:
        """``loss`` and ``loss_t/<from>-<to>`` for each part of t that was drawn from."""
        out = {self.name: self.total.sum() / self.count.sum()}
        for i, (total, count) in enumerate(zip(self.total, self.count, strict=True)):
            if count > 0 and self.timed:
                out[f"{self.name}_t/{i / self.bins:g}-{(i + 1) / self.bins:g}"] = total / count
        return out


class _Losses:
    """The loss and, where there is one, the unweighted loss."""

    def __init__(self, bins: int) -> None:
        self.weighted, self.unweighted = LossByLevel(bins), LossByLevel(bins, "unweighted_loss")

    def to(self, device: torch.device) -> None:
        self.weighted.to(device)
        self.unweighted.to(device)

    def reset(self) -> None:
        self.weighted.reset()
        self.unweighted.reset()

    def update(self, outputs: Sequence[dict[str, Any]]) -> Tensor:
        """What steps returned -> their losses (B,)."""
        losses = torch.cat([one["per_sample"] for one in outputs])
        times = [one["t"] for one in outputs if one["t"] is not None]
        t = torch.cat(times).to(losses.device) if times else None
        self.weighted.update(losses, t)
        plain = [one["unweighted"] for one in outputs if one.get("unweighted") is not None]
        if len(plain) == len(outputs):
            self.unweighted.update(torch.cat(plain), t)
        return losses

    def compute(self) -> dict[str, Tensor]:
        return {**self.weighted.compute(), **(self.unweighted.compute() if self.unweighted.update_called else {})}


class Monitor(Callback):
    """Logs training every ``trainer.log_every_n_steps`` steps and validation at its end.

    ``loss`` is what is minimised; ``unweighted_loss`` is :attr:`diffusion.objective.base.Loss.unweighted`, where the
    objective has one: two weightings of one target compare by it, at each noise level (``unweighted_loss_t/0-0.1``).

    Between two logs a step costs a list append: nothing is read back from the device. Speed is images a second over
    all ranks, TFLOP/s of a rank's network (forward and backward), and its share of what the machine does at best
    (:mod:`diffusion.training.flops`); validation does not count, all else does.

    Args:
        bins: parts of t for the loss per noise level.

    Raises:
        DivergedError: the mean loss since the last log is not finite.
    """

    def __init__(self, bins: int = 10) -> None:
        self.latest: dict[str, float] = {}
        self._train, self._val = _Losses(bins), _Losses(bins)
        self._parts: dict[str, MeanMetric] = {}
        self._val_parts: dict[str, MeanMetric] = {}
        self._pending: list[dict[str, Any]] = []
        self._logged = -1
        self._clock = 0.0
        self._flops: float | None = None
        self._peak = math.inf

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._train.to(pl_module.device)
        self._val.to(pl_module.device)
        self._peak = peak(pl_module.device, arithmetic(trainer.precision))
        self._logged, self._clock = trainer.global_step, time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._pending.append(outputs)
        step = trainer.global_step
        if step != self._logged and step % log_interval(trainer) == 0:
            if self._flops is None:
                self._clock -= time.perf_counter()
                self._flops = _image_flops(pl_module, batch)
                self._clock += time.perf_counter()
            self._log_training(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._pending:
            self._log_training(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock -= time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._clock += time.perf_counter()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._val.update([outputs])
        for name, values in outputs.get("logs", {}).items():
            self._val_parts.setdefault(name, MeanMetric().to(pl_module.device)).update(values)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._val.to(pl_module.device)
        self._val.reset()
        self._val_parts.clear()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parts = {name: part.compute() for name, part in self._val_parts.items()}
        values = {**self._val.compute(), **parts}
        self._publish(trainer, {f"val/{name}": float(value) for name, value in values.items()})

    def _log_training(self, trainer: pl.Trainer) -> None:
        pending, self._pending = self._pending, []
        losses = self._train.update(pending)
        values = {f"train/{name}": float(value) for name, value in self._train.compute().items()}
        for name in pending[0]["logs"]:
            part = self._parts.setdefault(name, MeanMetric().to(losses.device))
            part.update(torch.cat([outputs["logs"][name] for outputs in pending]))
            values[f"train/{name}"] = float(part.compute())
            part.reset()
        self._train.reset()
        now = time.perf_counter()
        speed = len(losses) / (now - self._clock)
        values["train/images_per_s"] = speed * trainer.world_size
        if self._flops:
            values["train/tflops"] = STEP * self._flops * speed / 1e12
            values["train/mfu"] = STEP * self._flops * speed / self._peak
        values["train/lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        self._clock, self._logged = now, trainer.global_step
        self._publish(trainer, values)
        if not math.isfinite(values["train/loss"]):
            raise diverged(trainer, f"the loss is {values['train/loss']}")

    def _publish(self, trainer: pl.Trainer, values: dict[str, float]) -> None:
        self.latest.update(values)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)


def _image_flops(module: pl.LightningModule, batch: dict[str, Any]) -> float:
    """Of one call of the network on one image; 0 where a network cannot tell from shapes."""
    try:
        return module.image_flops(batch) if isinstance(module, DiffusionModule) else 0.0
    except Exception as error:  # whatever a network does on no data must not end a training
        log.info("no FLOP/s in the log: the network cannot be run on shapes alone (%s)", error)
        return 0.0


def log_interval(trainer: pl.Trainer) -> int:
    """Optimizer steps between two logs, as the trainer was told."""
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]
