"""Lightning's training of one batch, for a module that is known: the same hooks in the same order, asked for once.

Lightning asks at every step which hooks exist, wraps each in a profiler, hands the step to the optimizer as a closure
in a closure, and collects metrics that nobody logged; on a small network that takes longer than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks.callback import Callback
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from diffusion.training.host import EACH_STEP, LeanModule, NoProfiler

TESTED = "2.6."
"""Lightning's versions whose loop this is; others run their own."""
TRANSFER = "transfer_batch_to_device", "on_before_batch_transfer", "on_after_batch_transfer"


class LeanEpochLoop(_TrainingEpochLoop):
    """An epoch of training in which a batch costs the host a third of what it costs in Lightning's own loop.

    Whatever it was not written for (accumulation, gradient scaling, profilers, strategies other than one device and
    DDP, modules other than a :class:`LeanModule`) runs in Lightning's own code.
    """

    def __init__(self, trainer: pl.Trainer, min_steps: int | None, max_steps: int) -> None:
        super().__init__(trainer, min_steps=min_steps, max_steps=max_steps)
        self._hooks: dict[str, list[Callable[..., Any]]] | None = None

    @staticmethod
    def install(trainer: pl.Trainer) -> None:
        """Takes the place of the trainer's own loop, where Lightning is of a version that was tested."""
        old = trainer.fit_loop.epoch_loop
        if pl.__version__.startswith(TESTED) and type(old) is _TrainingEpochLoop:
            trainer.fit_loop.epoch_loop = LeanEpochLoop(trainer, old.min_steps, old.max_steps)

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        self._hooks = self._found() if self._suits() else None

    def advance(self, data_fetcher: Any) -> None:
        if self._hooks is None or self.restarting:
            super().advance(data_fetcher)
            return
        trainer, progress = self.trainer, self.batch_progress
        self.val_loop.restarting = False
        batch, batch_idx = next(data_fetcher)[0], self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = trainer.precision_plugin.convert_input(batch)
        batch = trainer.lightning_module.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
        progress.increment_ready()
        metrics: Any = trainer._logger_connector
        metrics.on_batch_start(batch)
        self._call("on_train_batch_start", batch, batch_idx)
        progress.increment_started()
        outputs = self._step(batch, batch_idx)
        progress.increment_processed()
        for config in trainer.lr_scheduler_configs:
            self.scheduler_progress.increment_ready()
            config.scheduler.step()  # type: ignore[call-arg]
            self.scheduler_progress.increment_completed()
        self._call("on_train_batch_end", outputs, batch, batch_idx)
        logged = bool(trainer._results)
        if logged:
            metrics.on_batch_end()
        else:
            trainer._results.batch = None  # type: ignore[union-attr]
        progress.increment_completed()
        if logged:
            metrics.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: Any) -> None:
        if self._hooks is None or self._skip_next_val or self.restarting or self._should_check_val_fx(data_fetcher):
            super().on_advance_end(data_fetcher)
            return
        self._batches_that_stepped += 1
        self._save_loggers_on_train_batch_end()
        if self.trainer.received_sigterm and not self._is_training_done:
            raise SIGTERMException

    def _broadcast_sigterm_tensor(self) -> None:
        """Lightning would ask rank 0 through the GPU before every batch, and wait; :class:`LeanModule`'s trainers have
        a callback that asks on the host, after each step."""
        if not any(getattr(callback, "stops_all_ranks", False) for callback in self.trainer.callbacks):  # type: ignore[attr-defined]
            super()._broadcast_sigterm_tensor()

    def _step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Loss, gradients, and one step of the optimizer; what the module's step returned, its loss detached."""
        trainer, counts = self.trainer, self.automatic_optimization.optim_progress.optimizer
        module, strategy, optimizer = trainer.lightning_module, trainer.strategy, trainer.optimizers[0]
        counts.step.increment_ready()
        module._current_fx_name = "training_step"
        outputs: dict[str, Any] = strategy.training_step(batch, batch_idx)  # type: ignore[assignment]
        loss: Tensor = outputs["loss"]
        counts.zero_grad.increment_ready()
        self._call("on_before_zero_grad", optimizer)
        counts.zero_grad.increment_started()
        module.optimizer_zero_grad(trainer.current_epoch, batch_idx, optimizer)
        counts.zero_grad.increment_completed()
        strategy.pre_backward(loss)
        self._call("on_before_backward", loss)
        module.backward(loss)
        self._call("on_after_backward")
        strategy.post_backward(loss)
        self._call("on_before_optimizer_step", optimizer)
        module.configure_gradient_clipping(optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm)
        module.optimizer_step(trainer.current_epoch, batch_idx, optimizer)
        counts.step.increment_completed()
        return {**outputs, "loss": loss.detach()}

    def _call(self, name: str, *args: Any) -> None:
        """Every hook of that name, its name noted for ``self.log``."""
        assert self._hooks is not None
        self.trainer.lightning_module._current_fx_name = name
        for hook in self._hooks[name]:
            hook(*args)
        self.trainer.lightning_module._current_fx_name = None

    def _found(self) -> dict[str, list[Callable[..., Any]]]:
        """Of each name, the hooks that do something: callbacks' in their order, then the module's."""
        trainer, module = self.trainer, self.trainer.lightning_module

        def bound(callback: Callback, name: str) -> Callable[..., Any]:
            return lambda *args: getattr(callback, name)(trainer, module, *args)

        return {
            name: [
                *(bound(c, name) for c in trainer.callbacks if _overridden(c, Callback, name)),  # type: ignore[attr-defined]
                *([getattr(module, name)] if _overridden(module, pl.LightningModule, name) else []),
            ]
            for name in EACH_STEP
        }

    def _suits(self) -> bool:
        trainer = self.trainer
        module, precision, data = trainer.lightning_module, trainer.precision_plugin, trainer.datamodule  # type: ignore[attr-defined]
        return (
            isinstance(module, LeanModule)
            and isinstance(trainer.profiler, NoProfiler)  # type: ignore[attr-defined]
            and type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy)
            and type(precision) in (Precision, MixedPrecision, HalfPrecision, DoublePrecision)
            and getattr(precision, "scaler", None) is None
            and trainer.accumulate_grad_batches == 1
            and len(trainer.optimizers) == 1
            and all(
                c.interval == "step" and c.frequency == 1 and not c.reduce_on_plateau
                for c in trainer.lr_scheduler_configs
            )
            and getattr(trainer.strategy, "_model_averager", None) is None
            and not _overridden(module, pl.LightningModule, "lr_scheduler_step")
            and not any(_overridden(module, pl.LightningModule, name) for name in TRANSFER[1:])
            and not any(data is not None and _overridden(data, pl.LightningDataModule, name) for name in TRANSFER)
        )  # fmt: skip


def _overridden(thing: Any, base: type, name: str) -> bool:
    hook = getattr(type(thing), name, None)
    return hook is not None and hook is not getattr(base, name)
