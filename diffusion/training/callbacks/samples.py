"""Grids of images during training: the same noise and the same labels every time, so that progress shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.callbacks.callback import Callback
from torch import Tensor
from torchvision.utils import make_grid

from diffusion.conditioner.none import NoConditioner
from diffusion.files import replacing
from diffusion.pipeline.keyed import panels
from diffusion.training.callbacks.pause import Pause
from diffusion.training.callbacks.prompt_grid import prompt_grid
from diffusion.training.module.base import TrainingModule
from diffusion.training.module.diffusion import DiffusionModule


class SampleGrid(Callback):
    """``samples/step_<n>.png`` every n optimizer steps and at the end: samples of the averaged weights, held-out
    images beside what an autoencoder makes of them, or those that a CLIP finds for captions.

    Args:
        every_n_train_steps: optimizer steps between two grids.
        num_samples: images in a grid; with class labels, sample i has class i mod num_classes.
        seed: of the noise.
        text: a prompt, or a list that share the samples, for a model of texts; captions of the held-out images in turn
            where ``None``. The words stand beside the images.
    """

    def __init__(
        self,
        every_n_train_steps: int = 500,
        num_samples: int = 64,
        seed: int = 0,
        text: str | Sequence[str] | None = None,
    ) -> None:
        if every_n_train_steps < 1 or num_samples < 1:
            raise ValueError(
                "callbacks.samples takes at least 1 step between grids and at least 1 sample, got "
                f"every_n_train_steps={every_n_train_steps}, num_samples={num_samples}"
            )
        self.every_n_train_steps = every_n_train_steps
        self.num_samples = num_samples
        self.seed = seed
        self.text = [text] if isinstance(text, str) else text
        if self.text is not None and not 0 < len(self.text) <= num_samples:
            raise ValueError(
                f"callbacks.samples.text holds 1 to num_samples={num_samples} prompts, got {len(self.text)}; draw more"
            )
        self.pause = Pause(f"drawing {num_samples} samples", every_n_train_steps, at_end=True)
        self._drawn = -1

    @property
    def prompts(self) -> list[str] | None:
        """The prompt of each sample."""
        if self.text is None:
            return None
        return [self.text[i * len(self.text) // self.num_samples] for i in range(self.num_samples)]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.text is not None and "text" not in getattr(pl_module.model, "conditioner", NoConditioner()).columns:
            raise ValueError(
                "callbacks.samples.text gives prompts, and this model reads no texts; leave it out, or train with "
                "conditioner=text"
            )
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
        if not isinstance(module, TrainingModule) or not (trainer.is_global_zero or module.sharded):
            return
        if isinstance(module, DiffusionModule) and module.model.autoencoder.column != "image":  # vectors are no images
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        with self.pause.taken(trainer):
            images = module.images(data, self.num_samples, self.seed, self.prompts)
        texts = self.prompts or module.texts(data, self.num_samples)
        if images is None or not trainer.is_global_zero:
            return
        run = Path(trainer.default_root_dir)
        path = run / "samples" / f"step_{trainer.global_step:07d}.png"
        save_grid(images, path, inside=run, texts=texts)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [str(path)], step=trainer.global_step)


def save_grid(
    images: Tensor,
    path: Path,
    *,
    smallest: int = 32,
    inside: Path | None = None,
    texts: Sequence[str] | None = None,
    columns: int | None = None,
) -> None:
    """Images uint8 (B, C, H, W) -> one PNG, about square or of so many columns, small images enlarged to
    ``smallest`` pixels, the channels of others than grey and RGB side by side.

    inside: a folder that must be there. texts: B prompts, whose words stand beside the images (:func:`prompt_grid`).
    """
    factor = math.ceil(smallest / images.shape[-2])
    pixels = panels(images).cpu().repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    if texts is None:
        grid = make_grid(pixels, nrow=columns or math.ceil(math.sqrt(len(pixels))), padding=2, pad_value=128)
        image = Image.fromarray(grid.permute(1, 2, 0).numpy())
    else:
        image = prompt_grid(pixels, texts)
    with replacing(path, inside=inside) as beside:
        image.save(beside, format="PNG")
