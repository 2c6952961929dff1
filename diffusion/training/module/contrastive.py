"""The training of a CLIP: pairs of an image and a caption, with an average of the weights beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from diffusion.contrastive.trainable import TrainableClip
from diffusion.objective.base import Loss, Step
from diffusion.pipeline.keyed import quantise
from diffusion.randomness import KeyedRandomness
from diffusion.training.ema import EMA
from diffusion.training.module.contrastive_loss import ContrastiveLoss
from diffusion.training.module.whole import WholeModule

SHOWN = 1000
"""Held-out images among which a grid looks for those of its captions."""


class ContrastiveModule(WholeModule):
    """Every pair of a global batch is compared with all others of it, on all ranks; validation does the same in the
    batches of the test split, with the averaged weights.

    Args:
        model, ema, optimizer, lr_scheduler, freeze, seed: see :class:`TrainingModule`.
        loss: what is minimised.

    Raises:
        ValueError: see :class:`TrainingModule`.
    """

    noun = "a CLIP"
    whole_batch = (
        "a CLIP compares each image with all texts of a batch, which a part of it does not hold; set micro_batch=null "
        "and trainer.accumulate_grad_batches=1"
    )
    model: TrainableClip
    average: TrainableClip
    objective: ContrastiveLoss

    def __init__(
        self,
        model: TrainableClip,
        loss: ContrastiveLoss,
        ema: EMA,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        freeze: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(model, loss, ema, optimizer, lr_scheduler, freeze, seed)

    def check(self, data: Any) -> None:
        """data: the datamodule, set up.

        Raises:
            ValueError: images without captions.
        """
        split = data.split("train")
        if split.texts is None and split.captions is None:
            raise ValueError(
                f"a CLIP is trained on images with captions, and {data.name} has none; use data with captions, such as "
                "data=emoji, or name their column in data.text"
            )

    def loss(
        self,
        batch: dict[str, Any],
        randomness: KeyedRandomness,
        *,
        ema: bool = False,
        step: Step | None = None,
        rival: bool = False,
    ) -> Loss:
        model = self.average if ema else self.model
        return self.objective(model.image(batch["image"]), model.text(batch["text"]), model.scale, even=not ema)

    @torch.no_grad()
    def images(self, data: Any, count: int, seed: int, prompts: Sequence[str] | None = None) -> Tensor:
        """For each caption the nearest one among held-out images, by the averaged weights."""
        split = data.split("test")
        rows = torch.arange(min(SHOWN, len(split)))
        parts = (split.batch(part)["image"].to(self.device) for part in rows.split(data.batch_size))
        vectors = torch.cat([self.average.image(part) for part in parts])
        nearest = (self.average.text(prompts or self.texts(data, count)) @ vectors.T).argmax(1)
        return quantise(split.batch(nearest.cpu())["image"])

    def texts(self, data: Any, count: int) -> list[str]:
        """The captions whose images are shown, evenly spread over the held-out ones."""
        known = data.split("test").texts
        return [known[min(SHOWN, len(known)) * i // count] for i in range(count)]

    def average_weights(self) -> None:
        self.model.clip_scale()
        super().average_weights()
