"""The training of an autoencoder, KL or VQ: images -> latents -> images, with an average of the weights beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from diffusion.autoencoder.trainable import TrainableAutoencoder
from diffusion.frozen import Frozen
from diffusion.objective.base import Loss, Step
from diffusion.pipeline.keyed import quantise
from diffusion.randomness import KeyedRandomness
from diffusion.training.ema import EMA
from diffusion.training.module.autoencoder_loss import AutoencoderLoss
from diffusion.training.module.whole import WholeModule


class AutoencoderModule(WholeModule):
    """Latents of training images are drawn, keyed by (seed, step, sample); validation takes their middle, and logs the
    peak signal-to-noise ratio of the averaged weights (``val/psnr``). A discriminator learns before each step, from
    images that are drawn anew.

    Args:
        model, ema, optimizer, lr_scheduler, freeze, seed: see :class:`TrainingModule`.
        loss: what is minimised.
        resolution: of the images, which the discriminator's patches fit into; unchecked where ``None``.

    Raises:
        ValueError: images too small for the discriminator or for the perceptual distance.
    """

    noun = "an autoencoder"
    model: TrainableAutoencoder
    average: TrainableAutoencoder
    objective: AutoencoderLoss

    def __init__(
        self,
        model: TrainableAutoencoder,
        loss: AutoencoderLoss,
        ema: EMA,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        freeze: Sequence[str] = (),
        seed: int = 0,
        resolution: int | None = None,
    ) -> None:
        if not isinstance(model, TrainableAutoencoder):
            raise ValueError(
                "module=autoencoder trains autoencoder=trainable_kl or autoencoder=trainable_vq, got "
                f"{type(model).__name__}; choose one of them"
            )
        super().__init__(model, loss, ema, optimizer, lr_scheduler, freeze, seed)
        self.perceptual = None if loss.perceptual is None else Frozen(loss.perceptual)
        if loss.rival is not None and resolution is not None:
            loss.rival.check(resolution)  # type: ignore[operator]

    @property
    def whole_batch(self) -> str | None:
        return WHOLE_BATCH if self.rival is not None else None

    def loss(
        self,
        batch: dict[str, Any],
        randomness: KeyedRandomness,
        *,
        ema: bool = False,
        step: Step | None = None,
        rival: bool = False,
    ) -> Loss:
        image = batch["image"]
        if rival:
            with torch.no_grad():
                made = self.model(image, randomness.randn_like).image
            return self.objective.rival_loss(image, made)
        model = self.average if ema else self.model
        found = model(image, None if ema else randomness.randn_like)
        loss = self.objective(image, found, model, None if ema else step)
        if ema:
            loss.logs["psnr"] = psnr(quantise(image), quantise(found.image)).to(image)
        return loss

    @torch.no_grad()
    def images(self, data: Any, count: int, seed: int, prompts: Sequence[str] | None = None) -> Tensor:
        """Held-out images, each with what the averaged weights make of it on its right."""
        split = data.split("test")
        rows = torch.arange(min(count, len(split)))
        pairs = []
        for part in rows.split(max(1, data.batch_size // self.trainer.world_size)):
            image = split.batch(part)["image"].to(self.device)
            pairs.append(torch.cat((quantise(image), quantise(self.average(image).image)), -1).cpu())
        return torch.cat(pairs)


def psnr(one: Tensor, other: Tensor, peak: float = 255.0) -> Tensor:
    """Peak signal-to-noise ratio of images (B, C, H, W) -> (B,) float64, in dB: 10 log10(peak^2 / mean squared
    difference), at most ``EXACT``, that of equal images.

    peak: the difference of the greatest and the least value, 255 of uint8."""
    error = (one.double() - other.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(peak**2 / error)).clamp_max(EXACT)


EXACT = 100.0
WHOLE_BATCH = (
    "an adversary's weight and norms are those of a whole batch; set micro_batch=null and "
    "trainer.accumulate_grad_batches=1, or module.loss.adversarial_start=null"
)
