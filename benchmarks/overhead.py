"""Row 6: the host's time of a training step, on an MLP so small that little else is left, with one thread.

All do the same work on the same batches: noise on digits, a forward and a backward pass, clipping, fused Adam, one
fused average. Bare: a ``for`` loop of it. Stock: a LightningModule whose step is the loop's body and which calls
``self.log`` each step, as tutorials do, with neither logger nor bar. Ours: this project's training as its config builds
it, with all callbacks and metrics.csv; and by hand, a ``for`` loop of this project's own parts, which tells what the
trainer adds from what draws keyed by sample and an objective for any schedule and target cost.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from benchmarks.harness import CLEAN, Row, counts, one_thread, race
from benchmarks.loops import Paused, Tick, config, ours, quiet
from diffusion.data.digits import Digits
from diffusion.network.mlp import MLP
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.training.clip import clip_by_norm
from diffusion.training.ema import average
from diffusion.types import Cond

STEPS, WIDTH, DEPTH = 50, 64, 2


def rows(budget: float = 45.0, small: bool = False) -> list[Row]:
    """Row 6."""
    with one_thread(), tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        mlp = ["network=mlp", f"network.width={WIDTH}", f"network.depth={DEPTH}", "trainer.precision=32-true"]
        cfg = config(Path(folder), *mlp)
        loops = {"ours": partial(ours, cfg), "by hand": partial(_by_hand, cfg), "stock": _stock, "bare": _bare}
        runs = {name: stack.enter_context(Paused(loop, STEPS)) for name, loop in loops.items()}
        timings = race({name: _as_alone(run, name in ("ours", "stock")) for name, run in runs.items()}, budget)
    us = {name: timing.median / STEPS * 1e6 for name, timing in timings.items()}
    clean = all(len(timing.seconds) >= CLEAN for timing in timings.values())

    def row(what: str, name: str) -> Row:
        return Row("6", f"{what} ({us[name]:.0f} us)", f"stock LightningModule, self.log ({us['stock']:.0f} us)",
                   us[name] / us["stock"] if clean else None, None, None, True, counts(timings, *loops))  # fmt: skip

    return [
        row(f"time of a training step, beside a bare loop's {us['bare']:.0f} us", "ours"),
        row("time of the same parts called by hand", "by hand"),
    ]


def _as_alone(run: Callable[[], None], lightning: bool) -> Callable[[], None]:
    """Lightning has torch look for GPUs in a way that costs every optimizer step 0.2 ms; a bare loop does without."""
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    kept = ["1" if lightning else "0"]

    def call() -> None:
        os.environ[name] = kept[0]
        run()
        kept[0] = os.environ[name]

    return call


class _Step:
    """A step by hand: everything but who calls it."""

    def __init__(self) -> None:
        self.network = MLP(1, 8, width=WIDTH, depth=DEPTH)
        self.averaged = list(copy.deepcopy(self.network).requires_grad_(False).parameters())
        self.parameters = list(self.network.parameters())
        self.adam = partial(torch.optim.Adam, lr=2e-3, fused=True)

    def loss(self, x0: Tensor) -> Tensor:
        t, eps = torch.rand(len(x0)), torch.randn_like(x0)
        angle = (0.5 * torch.pi * t)[:, None, None, None]
        return (self.network(angle.cos() * x0 + angle.sin() * eps, 1000 * t, Cond()) - eps).square().mean()

    @torch.no_grad()
    def average(self) -> None:
        torch._foreach_lerp_(self.averaged, self.parameters, 0.005)


def _batches() -> Iterator[dict[str, Any]]:
    data = Digits()
    data.setup()
    loader = data.train_dataloader()
    while True:
        yield from loader


def _bare(tick: Callable[[], None]) -> None:
    step = _Step()
    adam = step.adam(step.parameters)
    for batch in _batches():
        step.loss(batch["image"]).backward()
        nn.utils.clip_grad_norm_(step.parameters, 1.0)
        adam.step()
        adam.zero_grad()
        step.average()
        tick()


def _by_hand(cfg: DictConfig, tick: Callable[[], None]) -> None:
    from diffusion.experiment.build.build import build_module

    module = build_module(cfg)
    built = module.configure_optimizers()
    optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    parameters, averaged = list(module.model.denoiser.parameters()), list(module.average.denoiser.parameters())
    for step, batch in enumerate(_batches()):
        randomness = KeyedRandomness(batch["index"], seed=0, stream=TRAINING, step=step)
        module.loss(batch, randomness).total.mean().backward()
        clip_by_norm(optimizer, parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        average(averaged, parameters, 0.995)
        tick()


def _stock(tick: Callable[[], None]) -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.step = _Step()
            self.network = self.step.network

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            loss = self.step.loss(batch["image"])
            self.log("loss", loss, prog_bar=True, batch_size=len(batch["image"]))
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            self.step.average()

        def configure_optimizers(self) -> Any:
            return self.step.adam(self.network.parameters())

    quiet()
    data = Digits()
    data.setup()
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=-1, max_epochs=-1, gradient_clip_val=1.0, callbacks=[Tick(tick)], **off
    )
    trainer.fit(Module(), data.train_dataloader())
