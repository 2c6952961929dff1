"""The training of one diffusion model: data -> latents -> noise -> loss, with an average of the weights beside it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from diffusion.augmentation.base import Augmentation
from diffusion.model import DiffusionModel
from diffusion.objective.base import Adversary, Loss, Objective, Step
from diffusion.pipeline.base import Request
from diffusion.randomness import KeyedRandomness
from diffusion.training.ema import EMA
from diffusion.training.flops import network_flops
from diffusion.training.module.base import TrainingModule
from diffusion.training.sharded import Sharded, release, shard
from diffusion.types import RandnLike


class DiffusionModule(TrainingModule):
    """Data -> latents -> noise -> loss. Sampling and validation use the average.

    Args:
        model, objective, ema, optimizer, lr_scheduler, freeze, seed: see :class:`TrainingModule`.
        augmentation: of training images, with labels that the network reads; ``None`` or empty for none.
        compile: compile the network and its average with clean checkpoint keys, in a mode of torch.compile where named.
    """

    model: DiffusionModel
    average: DiffusionModel
    objective: Objective

    def __init__(
        self,
        model: DiffusionModel,
        objective: Objective,
        ema: EMA,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        augmentation: Augmentation | Mapping[str, Any] | None = None,
        freeze: Sequence[str] = (),
        seed: int = 0,
        compile: bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = False,
    ) -> None:
        super().__init__(model, objective, ema, optimizer, lr_scheduler, freeze, seed)
        self.augmentation = augmentation if isinstance(augmentation, Augmentation) else None
        self._outline: list[nn.Module] = []  # of a sharded network, on the meta device; a list is no part of the module
        network = model.denoiser.network
        if network.augment_dim != (self.augmentation.dim if self.augmentation else 0):
            raise ValueError(
                f"the network reads {network.augment_dim} numbers of an augmentation and "
                + (f"it has {self.augmentation.dim}" if self.augmentation else "there is none")
                + "; a network that is not conditioned on them would learn to draw augmented images: use "
                "network=ddpmpp_cifar10 or another with augment_dim, or augmentation=none"
            )
        if not objective.conditioned:  # DDP waits for a gradient of everything that is trained
            model.conditioner.requires_grad_(False)
        objective.check(model.denoiser)  # what cannot be trained or guided is refused before any training
        model.guided()
        self._compile = compile

    def configure_model(self) -> None:
        self.compile_networks()
        if isinstance(self.trainer.strategy, Sharded):
            mesh, blocks = self.trainer.strategy.device_mesh["data_parallel"], self.model.denoiser.network.blocks
            self._outline = [copy.deepcopy(self.average.denoiser.network).to("meta")]
            for denoiser in (self.model.denoiser, self.average.denoiser):
                shard(denoiser.network, mesh, blocks)
            for conditioner in (self.model.conditioner, self.average.conditioner):
                shard(conditioner, mesh, keep=True)  # a null condition is a view of a weight
            self.sharded = True

    def compile_networks(self) -> None:
        """In place, by its settings; nothing is compiled before it is called."""
        if self._compile:
            for model in (self.model, self.average):
                model.compile_network(self._compile)

    def loss(
        self,
        batch: dict[str, Any],
        randomness: KeyedRandomness,
        *,
        ema: bool = False,
        step: Step | None = None,
        rival: bool = False,
    ) -> Loss:
        """The objective on one batch, its condition dropped with the conditioner's probability; the average is held to
        images as they are, without augmentation."""
        labels = None
        if self.augmentation is not None and not ema:
            batch, labels = self.augmentation.batch(batch, randomness)
        x0 = self.latents(batch, randomness.randn_like)
        model = self.average if ema else self.model
        cond = model.conditioner.drop_parts(model.condition(batch), randomness)
        if labels is not None:
            cond = replace(cond, augment_labels=labels)
        if rival:
            assert isinstance(self.objective, Adversary)
            return self.objective.rival_loss(model.denoiser, x0, cond, randomness=randomness, step=step)
        return self.objective(model.denoiser, x0, cond, randomness=randomness, step=step)

    def core(self, model: DiffusionModel) -> nn.Module:
        return model.denoiser

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.objective.after_step(self.model.denoiser, self.progress())

    def average_weights(self) -> None:
        release(self.average.conditioner)
        super().average_weights()

    def images(self, data: Any, count: int, seed: int, prompts: Sequence[str] | None = None) -> Tensor | None:
        """Samples of the averaged weights, the same noise, labels and prompts every time."""
        fits = max(1, data.batch_size // (data.parts * self.trainer.world_size))  # a device's share, in training
        batch_size = fits if data.parts > 1 else count
        columns = data.split("test").requests_for(self.model.conditioner.columns)
        pipeline = self.average.pipeline(batch_size=batch_size, columns=columns)
        return pipeline.draw(torch.arange(count), seed, Request(text=prompts))

    def texts(self, data: Any, count: int) -> list[str] | None:
        """The captions that samples without prompts are drawn for, of a model that reads them."""
        known = data.split("test").texts if "text" in self.model.conditioner.columns else None
        return None if known is None else [known[i % len(known)] for i in range(count)]

    @torch.no_grad()
    def latents(self, batch: Mapping[str, Any], randn_like: RandnLike | None = None) -> Tensor:
        """What diffusion runs on: of images, or what was made of them before; drawn where there is a draw."""
        if "moments" in batch:
            return self.model.autoencoder.draw(batch["moments"], randn_like)
        batch = self.model.autoencoder.completed(batch)
        if (column := self.model.autoencoder.column) not in batch:
            raise ValueError(
                f"what is trained on is the column {column}, which this batch lacks (it has {', '.join(batch)}); use "
                "data with that column"
            )
        return self.model.autoencoder.encode(batch[column], randn_like)

    def image_flops(self, batch: dict[str, Any]) -> float:
        """Floating-point operations of one network call on one image of such a batch."""
        one = {name: value[:1] for name, value in batch.items()}
        with torch.no_grad():
            shape, cond = self.latents(one).shape[1:], self.average.conditioner(one)
        return network_flops(self._outline[0] if self.sharded else self.average.denoiser.network, shape, cond)
