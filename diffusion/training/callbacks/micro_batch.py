"""A batch in parts that fit into memory: gradients of equal parts add up to the gradient of the whole.

Noise, times and dropped conditions are keyed by sample and optimizer step, and a place in the batch is that in the
whole one, so that the parts train as the whole up to rounding; only dropout differs, which is keyed by part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import psutil
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks.callback import Callback
from torch import Tensor

from diffusion.errors import DataError
from diffusion.files import write_atomic
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.training.module.diffusion import DiffusionModule

FILE = "micro_batch.json"
"""In the run folder: what was chosen, so that a resumed run goes on with it."""


class MicroBatch(Callback):
    """Divides each device's share of ``data.batch_size`` into equal parts; the optimizer steps after the last.

    Steps, epochs, intervals and what a checkpoint counts are those of whole batches.

    Args:
        size: images of a part, a divisor of a device's share, or "auto" for the most that fit: on a GPU by trying
            from the whole share downwards, on a CPU by what one image keeps for the backward pass, which may fill
            half of the free memory.
        resumed: go on with the parts that the run was started with.

    Raises:
        DataError: when training begins: a size that does not divide the share, other parts than the run began with, or
            not even one image fits.
    """

    def __init__(self, size: int | Literal["auto"] | None, resumed: bool = False) -> None:
        self.size = size
        self.resumed = resumed

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        share = data.batch_size // trainer.world_size
        path = Path(trainer.default_root_dir) / FILE
        if self.resumed:
            parts = self._recorded(trainer.strategy.broadcast(_read(path)), share)
        elif self.size is not None:
            size = self._most(trainer, pl_module, share) if self.size == "auto" else self.size
            parts = max(1, share // size)
        if self.size is None:
            return  # whole batches, and so did the run begin
        if share % parts or (isinstance(self.size, int) and self.size * parts != share):
            raise DataError(
                f"micro_batch={self.size} does not divide the {share} images that a device gets of data.batch_size="
                f"{data.batch_size}; give one of {', '.join(map(str, divisors(share)))}"
            )
        data.parts = parts
        trainer.accumulate_grad_batches *= parts
        for name in ("val_check_interval", "limit_train_batches"):
            if isinstance(whole := getattr(trainer, name), int):
                setattr(trainer, name, whole * parts)
        if trainer.is_global_zero:
            told = {"micro_batch": share // parts, "parts": parts, "share": share, "asked": self.size}
            write_atomic(path, json.dumps(told, indent=2) + "\n")

    def _recorded(self, record: dict[str, int] | None, share: int) -> int:
        parts = 1 if record is None else record["parts"]
        if self.size != "auto" and parts != (1 if self.size is None else share // self.size):
            raise DataError(
                f"this run was started with {parts} parts a batch, which its checkpoint counts by; resume it without "
                f"micro_batch={self.size} (network.checkpointing=true is another way to save memory)"
            )
        return parts

    def _most(self, trainer: pl.Trainer, module: pl.LightningModule, share: int) -> int:
        if not isinstance(module, DiffusionModule) or module.sharded:
            raise DataError("micro_batch=auto tries on each device alone, which trainer=fsdp cannot; give a number")
        trial = Trial(module, trainer)
        fits = trial.succeeds if module.device.type == "cuda" else trial.fits_memory
        size = torch.tensor(largest(share, fits), device=module.device)
        if dist.is_initialized():
            dist.all_reduce(size, dist.ReduceOp.MIN)
        return int(size)


class Trial:
    """One training step's forward and backward pass, leaving no trace in the module."""

    def __init__(self, module: DiffusionModule, trainer: pl.Trainer) -> None:
        self.module, self.trainer = module, trainer
        self._kept: int | None = None

    def succeeds(self, size: int) -> bool:
        """Does it fit, with the optimizer's two moments beside it? Found out by doing it."""
        try:
            moments = [torch.empty_like(p) for p in self.module.parameters() if p.requires_grad for _ in range(2)]
            self._loss(size).backward()
            del moments
        except torch.OutOfMemoryError:
            return False
        finally:
            self.module.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        return True

    def fits_memory(self, size: int) -> bool:
        """Does what the backward pass needs fill at most half of the free memory, shared among the ranks here?"""
        if self._kept is None:
            self._kept = self.kept(1)
        return size * self._kept <= free_memory() // (2 * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

    def kept(self, size: int) -> int:
        """Bytes that the forward pass of ``size`` images keeps for the backward pass, weights excluded."""
        weights = {p.untyped_storage().data_ptr() for p in self.module.parameters()}
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self._loss(size)
        del loss
        return sum(found.values())

    def _loss(self, size: int) -> Tensor:
        module = self.module
        split = self.trainer.datamodule.split("train")  # type: ignore[attr-defined]
        batch = split.batch(split.alike(size))
        batch = module.transfer_batch_to_device(batch, module.device, 0)
        randomness = KeyedRandomness(batch["index"], seed=module.seed, stream=TRAINING)
        learned = module.objective.state_dict()
        with self.trainer.precision_plugin.train_step_context():
            loss = module.loss(batch, randomness).total.mean()
        module.objective.load_state_dict(learned)
        return loss


def largest(share: int, fits: Callable[[int], bool]) -> int:
    """The largest divisor of ``share`` that fits.

    Raises:
        DataError: none does.
    """
    for size in reversed(divisors(share)):
        if fits(size):
            return size
    raise DataError("not even one image fits into memory; set network.checkpointing=true, or take a smaller network")


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def free_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's where that is less."""
    free = psutil.virtual_memory().available
    try:
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no control group, or one without a limit
        pass
    return free


def _read(path: Path) -> dict[str, int] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
