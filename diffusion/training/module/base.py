"""What every training shares: keyed draws, an average of the weights, optimizers, clipping, checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from diffusion.errors import ConfigError
from diffusion.frozen import Frozen
from diffusion.objective.base import Criterion, Loss, Step
from diffusion.randomness import DROPOUT, TRAINING, KeyedRandomness, mix
from diffusion.training.clip import clip_by_norm
from diffusion.training.ema import EMA, average, copy_buffers
from diffusion.training.flat import Buffer, FlatAdam
from diffusion.training.freeze import freeze_matching
from diffusion.training.module.rival import Rival
from diffusion.training.options import Options, apply_options, options

AVERAGING = "averaging of the weights"
"""The name under which a profiler meets the update of the average."""


class TrainingModule(pl.LightningModule):
    """A model that an objective trains, beside an average of its weights.

    Every draw is a function of (seed, optimizer step, sample index), the same for any number of ranks and any split of
    a batch into accumulated parts. The averaged weights live in ``average``, a second copy of the model under its own
    keys of the checkpoint; nothing ever swaps the two. An objective's teacher is held frozen; its ``extra`` modules are
    trained with the model, without an average; its rival has an optimizer of its own. All of it is in the checkpoint,
    but for the teacher, which its identity names.

    Args:
        model: what is trained, a module with a ``twin()``, its average, and ``frozen``, the sha256 of the weights that
            no checkpoint of it holds, by the name of their part.
        objective: what training minimises.
        ema: how weights are averaged.
        optimizer: parameters -> optimizer (a partial).
        lr_scheduler: optimizer -> schedule, stepped once an optimizer step (a partial), or ``None``.
        freeze: patterns of the model's parameter names, such as ``denoiser.network.blocks.*``: not trained.
        seed: of all training draws, 0 included.

    Raises:
        ValueError: a pattern that matches no parameter, or nothing left to train.
    """

    def __init__(
        self,
        model: Any,
        objective: Criterion,
        ema: EMA,
        optimizer: Callable[[list[nn.Parameter]], Optimizer],
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        freeze: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model: Any = model
        self.average: Any = model.twin()
        self.objective: Any = objective
        self.teacher = None if objective.teacher is None else Frozen(objective.teacher)
        self.extra = nn.ModuleDict(objective.extra)
        self.rival = Rival(objective, optimizer, self) if objective.rival is not None else None
        self.rival_network = self.rival.network if self.rival else None
        self.seed = seed
        self.parts: dict[str, Any] = {}
        """The identities of the runs that this one is built on, by role, in plain values."""
        self.batches = 0
        """Batches seen in training, over all resumptions: what dropout is keyed by."""
        self.sharded = False
        """Every rank holds a share of the weights: all of them must call a network together."""
        self._lists: tuple[list[nn.Parameter], list[nn.Parameter]] | None = None
        self._flat: tuple[list[Tensor], list[Tensor]] | None = None
        self._buffered = True
        self._ema = ema
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._options: Options = []
        self._restored: Options | None = None
        freeze_matching(model, freeze)

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Self:
        """Lightning's way, which needs the arguments of the constructor, and these are objects.

        Raises:
            ConfigError: always, with what loads a run.
        """
        raise ConfigError(
            "a checkpoint holds the weights of a run, and its parts are in the run's config; load both with "
            "diffusion.load(<run folder>), or a checkpoint of that run with "
            "diffusion.load(<run folder>, checkpoint=<name or path>)"
        )

    @abstractmethod
    def loss(
        self,
        batch: dict[str, Any],
        randomness: KeyedRandomness,
        *,
        ema: bool = False,
        step: Step | None = None,
        rival: bool = False,
    ) -> Loss:
        """The objective on one batch: of the trained weights or of the average, or the rival's own."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        self._seed_dropout(self.batches)
        self.batches += 1
        step, logs = self.progress(), {}
        if self.rival is not None:
            logs = self.rival.update(batch, batch_idx, step)
        loss = self.loss(batch, self.randomness(batch, batch_idx, step.number), step=step)
        return {
            "loss": loss.total.mean(),
            "per_sample": loss.total.detach(),
            "unweighted": None if loss.unweighted is None else loss.unweighted.detach(),
            "t": loss.t,
            "logs": {**logs, **{name: value.detach() for name, value in loss.logs.items()}},
        }

    def randomness(self, batch: dict[str, Any], batch_idx: int, step: int, stream: int = TRAINING) -> KeyedRandomness:
        """The draws of one batch of an optimizer step."""
        place, size = self._place(len(batch["index"]), batch_idx)
        return KeyedRandomness(batch["index"], seed=self.seed, stream=stream, step=step, place=place, size=size)

    def progress(self) -> Step:
        """How far the training is."""
        key, total = self.batches - 1, self.trainer.max_steps
        return Step(
            number=self.trainer.global_step,
            total=total if total and total > 0 else None,
            average=getattr(self.average, "denoiser", None),
            replay=lambda: self._replay(key),
        )

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
        loss = self.loss(batch, randomness, ema=True, step=self.progress())
        return {"per_sample": loss.total, "unweighted": loss.unweighted, "t": loss.t, "logs": loss.logs}

    def core(self, model: Any) -> nn.Module:
        """What of the model, or of its average, has buffers that belong to it."""
        whole: nn.Module = model
        return whole

    def images(self, data: Any, count: int, seed: int, prompts: Sequence[str] | None = None) -> Tensor | None:
        """Images uint8 (count, C, H, W') that show how far the training is, ``None`` where there are none. Every rank
        of a sharded model calls it, of another the first alone.

        data: the datamodule. prompts: of a model of texts, one an image.
        """
        return None

    def texts(self, data: Any, count: int) -> list[str] | None:
        """What :meth:`images` shows without prompts, in words; ``None`` where it is not of words."""
        return None

    def configure_optimizers(self) -> Any:
        if self.rival is not None:
            self.rival.prepare()
        optimizer = self._optimizer([p for p in (*self._trained(), *self.extra.parameters()) if p.requires_grad])
        if not self.extra and FlatAdam.suits(optimizer) and not self.sharded:
            optimizer = FlatAdam(optimizer)
            pairs = zip(self._averaged(), self._trained(), strict=True)
            averaged = [average_of for average_of, p in pairs if p.requires_grad]
            self._flat = [Buffer(averaged).hold(averaged)], [optimizer.weights]
        self._options = options(optimizer)
        if self._lr_scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._lr_scheduler(optimizer), "interval": "step"},
        }

    def on_train_start(self) -> None:
        """Walking through all modules takes longer than averaging them: once is enough."""
        self._lists = self._trained(), self._averaged()
        if self._restored is not None:
            schedule = next((one.scheduler for one in self.trainer.lr_scheduler_configs), None)
            apply_options(self.trainer.optimizers[0], self._options, self._restored, schedule)
            self._restored = None
        kept = self.core(self.model).state_dict()  # buffers that are not in it are constants
        self._buffered = any(name in kept for name, _ in self.core(self.model).named_buffers())

    def on_train_end(self) -> None:
        self._lists = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        with self.trainer.profiler.profile(AVERAGING):  # type: ignore[attr-defined]
            self.average_weights()

    def average_weights(self) -> None:
        """The average moves towards the weights."""
        beta = self._ema.beta(self.trainer.global_step + 1)
        averaged, trained = self._flat or (self._averaged(), self._trained())
        average(averaged, trained, beta)
        if self._buffered:
            copy_buffers(self.core(self.average), self.core(self.model))

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

    def train(self, mode: bool = True) -> TrainingModule:
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
        checkpoint["options"] = self._options
        if self.rival is not None:
            checkpoint["rival"] = self.rival.state_dict()
        checkpoint["frozen"] = self.model.frozen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches = int(checkpoint["batches"])
        self._restored = checkpoint.get("options")
        self.objective.load_state_dict(checkpoint.get("objective", {}))
        if self.rival is not None:
            self.rival.load_state_dict(checkpoint["rival"])

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

    @contextmanager
    def _replay(self, batch: int) -> Iterator[None]:
        """The global generators as at the beginning of a batch: the same dropout once more."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            self._seed_dropout(batch)
            yield
