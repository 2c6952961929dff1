"""Row 6: the host's time of a training step, on an MLP so small that little else is left, with one thread.

Ours: training as its config builds it, with all callbacks and metrics.csv, noise keyed by sample and the averaged
weights. Stock: a LightningModule with the same network and batches, clipping, fused Adam and one fused average, that
logs its loss each step, as tutorials do, with neither logger nor bar. Nothing is demanded: the row shows what the
features cost where a step costs nothing else; a network of 0.1 s a step does not notice either.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from benchmarks.harness import Row, counts, one_thread, race, ratio
from benchmarks.loops import Paused, Tick, config, ours, quiet
from diffusion.data.digits import Digits
from diffusion.network.mlp import MLP
from diffusion.types import Cond

STEPS, WIDTH, DEPTH = 50, 64, 2


def rows(budget: float = 45.0, small: bool = False) -> list[Row]:
    """Row 6."""
    with one_thread(), tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        mlp = ["network=mlp", f"network.width={WIDTH}", f"network.depth={DEPTH}", "trainer.precision=32-true"]
        loops = {"ours": partial(ours, config(Path(folder), *mlp)), "stock": _stock}
        timings = race({name: stack.enter_context(Paused(loop, STEPS)) for name, loop in loops.items()}, budget)
    us = {name: timing.median / STEPS * 1e6 for name, timing in timings.items()}
    return [
        Row("6", f"host's time of a training step ({us['ours']:.0f} us)",
            f"stock LightningModule, self.log ({us['stock']:.0f} us)",
            ratio(timings, "ours", "stock"), None, None, True, counts(timings, *loops)),
    ]  # fmt: skip


def _stock(tick: Callable[[], None]) -> None:
    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = MLP(1, 8, width=WIDTH, depth=DEPTH)
            self.averaged = list(copy.deepcopy(self.network).requires_grad_(False).parameters())
            self.trained = list(self.network.parameters())

        def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
            x0 = batch["image"]
            t, eps = torch.rand(len(x0)), torch.randn_like(x0)
            angle = (0.5 * torch.pi * t)[:, None, None, None]
            out = self.network(angle.cos() * x0 + angle.sin() * eps, 1000 * t, Cond())
            loss = (out - eps).square().mean()
            self.log("loss", loss, prog_bar=True, batch_size=len(x0))
            return loss

        @torch.no_grad()
        def on_train_batch_end(self, *_: Any) -> None:
            torch._foreach_lerp_(self.averaged, self.trained, 0.005)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.trained, lr=2e-3, fused=True)

    quiet()
    data = Digits()
    data.setup()
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=-1, max_epochs=-1, gradient_clip_val=1.0, callbacks=[Tick(tick)], **off
    )
    trainer.fit(Module(), data.train_dataloader())
