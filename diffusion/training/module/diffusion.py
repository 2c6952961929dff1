"""The training of one diffusion model: data -> latents -> noise -> loss, with an average of the weights beside it."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from diffusion.augmentation.base import Augmentation
from diffusion.model import DiffusionModel
from diffusion.objective.base import Loss, Objective
from diffusion.randomness import DROPOUT, TRAINING, KeyedRandomness, mix
from diffusion.training.clip import clip_by_norm
from diffusion.training.ema import EMA, average, copy_buffers
from diffusion.training.flat import Buffer, FlatAdam
from diffusion.training.flops import network_flops
from diffusion.training.sharded import Sharded, release, shard
from diffusion.types import RandnLike

AVERAGING = "averaging of the weights"
"""The name under which a profiler meets the update of the average."""


class DiffusionModule(pl.LightningModule):
    """Every part is a built object; every draw of training is a function of (seed, optimizer step, sample index), the
    same for any number of ranks and any split of a batch into accumulated parts.

    The averaged weights live in ``average``, a second copy of the model under its own keys of the checkpoint; nothing
    ever swaps the two. Sampling and validation use the average.

    Args:
        model: what is trained.
        optimizer: parameters -> optimizer (a partial).
        lr_scheduler: optimizer -> schedule, stepped once an optimizer step (a partial), or ``None``.
        augmentation: of training images, told to the network; ``None`` or empty for none.
        freeze: patterns of the model's parameter names, such as ``denoiser.network.blocks.*``: not trained.
        seed: of all training draws, 0 included.
        compile: compile the network and its average with clean checkpoint keys, in a mode of torch.compile where named.
    """

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
        super().__init__()
        self.model = model
        self.average = model.twin()
        self.objective = objective
        self.augmentation = augmentation if isinstance(augmentation, Augmentation) else None
        self.seed = seed
        self.parts: dict[str, Any] = {}
        """The identities of the runs that this one is built on, by role, in plain values."""
        self.batches = 0
        """Batches seen in training, over all resumptions: what dropout is keyed by."""
        self.sharded = False
        """Every rank holds a share of the weights: all of them must call a network together."""
        self._outline: list[nn.Module] = []  # of a sharded network, on the meta device; a list is no part of the module
        self._lists: tuple[list[nn.Parameter], list[nn.Parameter]] | None = None
        self._flat: tuple[list[Tensor], list[Tensor]] | None = None
        self._buffered = True
        self._ema = ema
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        network = model.denoiser.network
        if network.augment_dim != (self.augmentation.dim if self.augmentation else 0):
            raise ValueError(
                f"the network reads {network.augment_dim} numbers of an augmentation and "
                + (f"is told {self.augmentation.dim}" if self.augmentation else "there is none")
                + "; a network that is not told would learn to draw augmented images: use network=ddpmpp_cifar10 or "
                "another with augment_dim, or augmentation=none"
            )
        if not objective.conditioned:  # DDP waits for a gradient of everything that is trained
            model.conditioner.requires_grad_(False)
        objective.check(model.denoiser)  # what cannot be trained or guided is refused before any training
        model.guided()
        _freeze(model, freeze)
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
        """In place, as the settings say; nothing is compiled before it is called."""
        if self._compile:
            for model in (self.model, self.average):
                model.compile_network(self._compile)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer([p for p in self._trained() if p.requires_grad])
        if FlatAdam.suits(optimizer) and not self.sharded:
            optimizer = FlatAdam(optimizer)
            pairs = zip(self._averaged(), self._trained(), strict=True)
            averaged = [average_of for average_of, p in pairs if p.requires_grad]
            self._flat = [Buffer(averaged).hold(averaged)], [optimizer.weights]
        if self._lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._lr_scheduler(optimizer), "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Walking through all modules takes longer than averaging them: once is enough."""
        self._lists = self._trained(), self._averaged()
        kept = self.model.denoiser.state_dict()  # buffers that are not in it are constants
        self._buffered = any(name in kept for name, _ in self.model.denoiser.named_buffers())

    def on_train_end(self) -> None:
        self._lists = None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        self._seed_dropout(self.batches)
        self.batches += 1
        place, size = self._place(len(batch["index"]), batch_idx)
        step = self.trainer.global_step
        randomness = KeyedRandomness(batch["index"], seed=self.seed, stream=TRAINING, step=step, place=place, size=size)
        loss = self.loss(batch, randomness)
        return {
            "loss": loss.total.mean(),
            "per_sample": loss.total.detach(),
            "t": loss.t,
            "logs": {name: value.detach() for name, value in loss.logs.items()},
        }

    def loss(self, batch: dict[str, Any], randomness: KeyedRandomness, *, ema: bool = False) -> Loss:
        """The objective on one batch, its condition dropped with the conditioner's probability; the average is held to
        images as they are, without augmentation."""
        told = None
        if self.augmentation is not None and not ema:
            image, told = self.augmentation(batch["image"], randomness)
            batch = {**batch, "image": image}
        x0 = self.latents(batch, randomness.randn_like)
        model = self.average if ema else self.model
        cond = model.conditioner.drop_parts(model.condition(batch), randomness)
        if told is not None:
            cond = replace(cond, augment_labels=told)
        return self.objective(model.denoiser, x0, cond, randomness=randomness)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        held_out = getattr(self.trainer.val_dataloaders, "split", batch["index"])
        randomness = KeyedRandomness(
            batch["index"],
            seed=self.seed,
            stream=TRAINING,
            step=-1,
            place=torch.as_tensor(batch["index"]),
            size=len(held_out),
        )
        loss = self.loss(batch, randomness, ema=True)
        return {"per_sample": loss.total, "t": loss.t}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        with self.trainer.profiler.profile(AVERAGING):  # type: ignore[attr-defined]
            release(self.average.conditioner)
            beta = self._ema.beta(self.trainer.global_step + 1)
            averaged, trained = self._flat or (self._averaged(), self._trained())
            average(averaged, trained, beta)
            if self._buffered:
                copy_buffers(self.average.denoiser, self.model.denoiser)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips also where a fused optimizer meets mixed precision, which Lightning refuses."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if not gradient_clip_val:
            return
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)  # a fused step would unscale by itself, after the clipping
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self._trained(), gradient_clip_val)
        elif scaler is None and not self.sharded:
            clip_by_norm(optimizer, self._trained(), gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(self._trained(), gradient_clip_val)

    @torch.no_grad()
    def latents(self, batch: Mapping[str, Any], randn_like: RandnLike | None = None) -> Tensor:
        """What diffusion runs on: of images, or what was made of them before; drawn where there is a draw."""
        if "moments" in batch:
            return self.model.autoencoder.draw(batch["moments"], randn_like)
        return self.model.autoencoder.encode(batch["image"], randn_like)

    def image_flops(self, batch: dict[str, Any]) -> float:
        """Floating-point operations of one network call on one image of such a batch."""
        one = {name: value[:1] for name, value in batch.items()}
        with torch.no_grad():
            shape, cond = self.latents(one).shape[1:], self.average.conditioner(one)
        return network_flops(self._outline[0] if self.sharded else self.average.denoiser.network, shape, cond)

    def train(self, mode: bool = True) -> DiffusionModule:
        """The average is never trained: no dropout in it, whatever the mode."""
        super().train(mode)
        self.average.eval()
        return self

    def transfer_batch_to_device(self, batch: dict[str, Any], device: torch.device, dataloader_idx: int) -> Any:
        """Sample numbers stay on the host: they key the draws, and reading them back would stall the device. They are
        an array from here on, which DDP and FSDP, unlike a tensor, do not move to the device either."""
        moved = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) and name != "index" else value
            for name, value in batch.items()
        }
        return {**moved, "index": np.asarray(batch["index"])}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["batches"] = self.batches
        checkpoint["objective"] = self.objective.state_dict()
        checkpoint["parts"] = self.parts
        if self.model.autoencoder.sha256 is not None:  # its weights are not in the checkpoint
            checkpoint["autoencoder"] = self.model.autoencoder.sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches = int(checkpoint["batches"])
        self.objective.load_state_dict(checkpoint.get("objective", {}))

    def _place(self, count: int, batch_idx: int) -> tuple[Tensor, int]:
        """Where this rank's samples stand in the batch of the optimizer step, and that batch's size."""
        parts, ranks = self.trainer.accumulate_grad_batches, self.trainer.world_size
        first = count * (ranks * (batch_idx % parts) + self.global_rank)
        return torch.arange(first, first + count), count * ranks * parts

    def _trained(self) -> list[nn.Parameter]:
        return self._lists[0] if self._lists else [p for p, twin in self._pairs() if p is not twin]

    def _averaged(self) -> list[nn.Parameter]:
        return self._lists[1] if self._lists else [twin for p, twin in self._pairs() if p is not twin]

    def _pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Every parameter of the model with its average, which shares what is frozen."""
        return zip(self.model.parameters(), self.average.parameters(), strict=True)

    def _seed_dropout(self, step: int) -> None:
        """Whatever else draws from the global generators (dropout) is a function of (seed, step, rank) too."""
        key = mix(self.seed, DROPOUT, step, self.global_rank)
        torch.default_generator.manual_seed(key)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(key)


def _freeze(model: DiffusionModel, patterns: Sequence[str]) -> None:
    """Raises:
    ValueError: a pattern that matches no parameter, or nothing left to train.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern in patterns:
        if not (found := fnmatch.filter(names, pattern)):
            near = ", ".join(names[:3])
            raise ValueError(f"freeze: no trained parameter is named {pattern!r}; names are {near}, ...")
        for name in found:
            model.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze={list(patterns)} leaves nothing to train")
