"""What a step costs the host beside the arithmetic: less of it than Lightning alone would ask for."""

from __future__ import annotations

import inspect
import os
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks.callback import Callback
from pytorch_lightning.profilers import PassThroughProfiler
from torch.optim.optimizer import Optimizer

EACH_STEP = (
    "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end",
)  # fmt: skip


class LeanCallback(Callback):
    """A callback whose empty hooks Lightning passes by at every step: entering half a dozen in each costs 0.1 ms."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in EACH_STEP:
            if getattr(cls, name) is getattr(Callback, name):
                setattr(cls, name, None)


class NoProfiler(PassThroughProfiler):
    """Times nothing, as the one that Lightning takes by default, with one context for all instead of fifty a step."""

    _context = nullcontext()

    def profile(self, action_name: str) -> Any:
        return self._context


class LeanModule(pl.LightningModule):
    """A LightningModule without some costs that are paid at every step for nothing: a good third of Lightning's own."""

    def __init_subclass__(cls) -> None:
        """Lightning asks at each step what arguments a training step takes."""
        super().__init_subclass__()
        if "training_step" in cls.__dict__:
            step: Any = cls.training_step
            step.__signature__ = inspect.signature(step)

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes the running hook some forty times a step, and torch looks for parameters in each note."""
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """As ``optimizer.zero_grad()``, without the way through torch's profiler and compiler."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def on_fit_start(self) -> None:
        if type(self.trainer.profiler) is PassThroughProfiler:  # type: ignore[attr-defined]
            self.trainer.profiler = NoProfiler()  # type: ignore[attr-defined]
        # Lightning has torch count GPUs through NVML, and optimizers ask at every step: 0.2 ms where there is none.
        if not torch.cuda.is_available():
            os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
