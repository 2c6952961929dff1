"""Where a training step's time goes: by part of the step, by operation, and against what the machine can do."""

from __future__ import annotations

import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks.callback import Callback
from pytorch_lightning.profilers import Profiler
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from diffusion.files import disk_errors, write_atomic
from diffusion.training.callbacks.samples import SampleGrid
from diffusion.training.flops import STEP, arithmetic, peak
from diffusion.training.module.base import AVERAGING
from diffusion.training.module.diffusion import DiffusionModule

log = logging.getLogger(__name__)

REST = "Lightning's loop and the rest"
PARTS = {
    "train_dataloader_next": "data",
    "batch_to_device": "data",
    ".training_step": "forward, with noise and loss",
    ".backward": "backward",
    "configure_gradient_clipping": "clipping",
    AVERAGING: "average of the weights",
    "Module.optimizer_step": "optimizer",
    "optimizer_zero_grad": "optimizer",
    "[Callback]": "callbacks",
}
"""Lightning's names of actions, by what they contain: what a row of the table is made of."""


class Profile(Callback):
    """Times ``steps`` optimizer steps, records the operations of ``traced`` more, says what it found, ends training.

    ``profile.txt`` and ``trace.json.gz`` (chrome://tracing, Perfetto) go into the run folder; no samples are drawn. On
    a GPU every part is waited for, so that parts can be told apart; a step is slower for it than in training.

    Args:
        warmup: steps before the first that is timed.
        operations: rows of the table of operations.
    """

    def __init__(self, steps: int = 20, warmup: int = 5, traced: int = 3, operations: int = 12) -> None:
        if min(steps, traced, operations) < 1 or warmup < 0:
            raise ValueError(
                "callbacks.profile takes at least 1 step, 1 traced step and 1 operation, got "
                f"steps={steps}, warmup={warmup}, traced={traced}, operations={operations}"
            )
        self.steps, self.warmup, self.traced, self.operations = steps, warmup, traced, operations
        self._recorder: torch.profiler.profile | None = None
        self._step = 0
        self._images = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, SampleGrid)]
        self._timer = trainer.profiler = Timer(pl_module.device)  # type: ignore[attr-defined]
        self._device = pl_module.device
        self._peak = peak(pl_module.device, arithmetic(trainer.precision))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._timer.running:
            self._images += len(batch["index"])
        if trainer.global_step == self._step:
            return  # gradients still accumulate
        self._step += 1
        if self._step == self.warmup + 1:
            self._timer.begin()
        elif self._step == self.warmup + 1 + self.steps:
            self._timer.end()
            self._recorder = torch.profiler.profile(activities=_activities(self._device))
            self._recorder.start()
        elif self._step == self.warmup + 1 + self.steps + self.traced and self._recorder is not None:
            self._recorder.stop()
            if trainer.is_global_zero:
                self._tell(trainer, pl_module, batch)
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wanted = self.warmup + 1 + self.steps + self.traced
        if self._step < wanted:
            log.warning(
                "no profile: it takes %d steps with warm-up and trace, and training ended after %d; "
                "set trainer.max_steps=%d or lower callbacks.profile.steps", wanted, self._step, wanted
            )  # fmt: skip

    def _tell(self, trainer: pl.Trainer, module: pl.LightningModule, batch: dict[str, Any]) -> None:
        folder = Path(trainer.default_root_dir)
        console = Console(record=True, width=110)
        seconds = self._timer.wall / self.steps
        images = self._images // self.steps
        table = Table(title=f"One step of {images} images on {self._device}, {trainer.precision}")
        for name in ("part", "ms", "share"):
            table.add_column(name, justify="left" if name == "part" else "right")
        parts = self._timer.parts()
        for name, total in [*parts.items(), ("all", self._timer.wall)]:
            table.add_row(name, f"{total / self.steps * 1e3:.3f}", f"{total / self._timer.wall:.1%}")
        console.print(table)
        if isinstance(module, DiffusionModule):
            flops = STEP * module.image_flops(batch) * images
            console.print(
                f"network, forward and backward: {flops / 1e9:.3f} GFLOP a step, {flops / seconds / 1e12:.4f} TFLOP/s: "
                f"{flops / seconds / self._peak:.1%} of the {self._peak / 1e12:.4f} TFLOP/s that this device was "
                "measured to do at the start (the better of a matrix product and a convolution)",
                highlight=False,
                soft_wrap=True,
            )
        console.print(self._operations())
        write_atomic(folder / "profile.txt", console.export_text())
        assert self._recorder is not None
        with disk_errors(folder / "trace.json.gz"):  # the recorder packs it by the name that it is given
            self._recorder.export_chrome_trace(str(folder / "trace.json.gz"))
        log.info("profile.txt and trace.json.gz in %s", folder)

    def _operations(self) -> Table:
        """The operations with most time of their own, on the GPU where there is one."""
        assert self._recorder is not None
        own = "self_cpu_time_total" if self._device.type == "cpu" else "self_device_time_total"
        # an operation's time on a GPU holds that of its kernels, which are events of their own
        events = [event for event in self._recorder.key_averages() if event.device_type == DeviceType.CPU]
        found = sorted(events, key=lambda event: -getattr(event, own))
        whole = sum(getattr(event, own) for event in found) or 1.0
        table = Table(title=f"Operations by their own time ({self.traced} steps, the recorder's cost included)")
        for name in ("operation", "ms a step", "share", "calls a step"):
            table.add_column(name, justify="left" if name == "operation" else "right", overflow="ellipsis")
        for event in found[: self.operations]:
            mine = getattr(event, own)
            row = (f"{mine / 1e3 / self.traced:.3f}", f"{mine / whole:.1%}", f"{event.count / self.traced:g}")
            table.add_row(event.key, *row)
        return table


class Timer(Profiler):
    """Lightning's names of what it does -> seconds of their own, children excluded, by row of the table."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.running = False
        self.wall = 0.0
        self._own: Counter[str] = Counter()
        self._open: list[list[Any]] = []
        self._waits = device.type != "cpu"

    def begin(self) -> None:
        self.running, self._start = True, self._now()

    def end(self) -> None:
        self.running, self.wall = False, self._now() - self._start
        self._open.clear()

    def start(self, action_name: str) -> None:
        if self.running:
            self._open.append([action_name, self._now(), 0.0])

    def stop(self, action_name: str) -> None:
        if self.running and self._open:
            _, began, inside = self._open.pop()
            total = self._now() - began
            self._own[_part(action_name)] += total - inside
            if self._open:
                self._open[-1][2] += total

    def parts(self) -> dict[str, float]:
        """Seconds of each row, in the order of a step; what no action covered is the rest."""
        rows = {part: self._own[part] for part in dict.fromkeys(PARTS.values())}
        return {**rows, REST: self.wall - sum(rows.values())}

    def _now(self) -> float:
        if self._waits:
            torch.accelerator.synchronize()
        return time.perf_counter()


def _part(action: str) -> str:
    return next((part for name, part in PARTS.items() if name in action), REST)


def _activities(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
