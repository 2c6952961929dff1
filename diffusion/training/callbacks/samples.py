"""Grids of samples during training: the same noise and the same labels every time, so that progress shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks.callback import Callback
from torch import Tensor
from torchvision.utils import make_grid

from diffusion.files import replacing
from diffusion.training.callbacks.pause import Pause
from diffusion.training.module.diffusion import DiffusionModule


class SampleGrid(Callback):
    """``samples/step_<n>.png`` every n optimizer steps and at the end, drawn with the averaged weights.

    Args:
        every_n_train_steps: optimizer steps between two grids.
        num_samples: images in a grid; with class labels, sample i has class i mod num_classes.
        seed: of the noise.
    """

    def __init__(self, every_n_train_steps: int = 500, num_samples: int = 64, seed: int = 0) -> None:
        if every_n_train_steps < 1 or num_samples < 1:
            raise ValueError(
                "callbacks.samples takes at least 1 step between grids and at least 1 sample, got "
                f"every_n_train_steps={every_n_train_steps}, num_samples={num_samples}"
            )
        self.every_n_train_steps = every_n_train_steps
        self.num_samples = num_samples
        self.seed = seed
        self.pause = Pause(f"drawing {num_samples} samples", every_n_train_steps, at_end=True)
        self._drawn = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._drawn = trainer.global_step  # no grid before the first step, which may take several batches

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % self.every_n_train_steps == 0 and step != self._drawn:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._drawn:
            self._draw(trainer, pl_module)

    def _draw(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._drawn = trainer.global_step
        if not isinstance(module, DiffusionModule) or not (trainer.is_global_zero or module.sharded):
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        fits = max(1, data.batch_size // (data.parts * trainer.world_size))  # a part of a device's share, in training
        batch_size = fits if data.parts > 1 else self.num_samples
        pipeline = module.average.pipeline(batch_size=batch_size, columns=data.split("test").requests)
        with self.pause.taken(trainer):
            images = pipeline.draw(torch.arange(self.num_samples), self.seed)
        if not trainer.is_global_zero:
            return
        run = Path(trainer.default_root_dir)
        path = run / "samples" / f"step_{trainer.global_step:07d}.png"
        save_grid(images, path, inside=run)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [str(path)], step=trainer.global_step)


def save_grid(images: Tensor, path: Path, *, smallest: int = 32, inside: Path | None = None) -> None:
    """Images uint8 (B, C, H, W) -> one PNG, about square, small images enlarged to ``smallest`` pixels.

    inside: a folder that must be there.
    """
    factor = math.ceil(smallest / images.shape[-1])
    pixels = images.cpu().repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    grid = make_grid(pixels, nrow=math.ceil(math.sqrt(len(pixels))), padding=2, pad_value=128)
    with replacing(path, inside=inside) as beside:
        Image.fromarray(grid.permute(1, 2, 0).numpy()).save(beside, format="PNG")
