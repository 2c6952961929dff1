"""Latents made once: encoding pictures at every step costs more than the training of a small network."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.data.error import DataError
from diffusion.data.split import Split, share
from diffusion.training.host import LeanCallback
from diffusion.training.module import DiffusionModule

log = logging.getLogger(__name__)


class LatentCache(LeanCallback):
    """Training pictures go through the autoencoder before the first step, into a file that is mapped from then on.

    The file holds the moments of the posterior in float32, so that each step draws its latents as if the pictures had
    just been encoded, and those of mirrored pictures too where the data are flipped. Its name is a hash of the
    autoencoder's weights, the data and their flips; ranks share the work, and so must share the folder. Held-out
    pictures are encoded when they are needed.

    Args:
        folder: of the files; one of Stable Diffusion's 4 x 32 x 32 latents takes 32 KiB a picture.

    Raises:
        DataError: when training begins: no autoencoder, an augmentation, no room for the file, or a folder that ranks
            do not share.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if getattr(pl_module, "augmentation", None) is not None:
            raise DataError(
                "callbacks=latents encodes pictures once, and augmentation changes them at every step; use "
                "callbacks=default, or augmentation=none"
            )
        coder = pl_module.autoencoder if isinstance(pl_module, DiffusionModule) else None
        if coder is None or coder.sha256 is None:
            raise DataError("callbacks=latents keeps what an autoencoder makes of pictures; add autoencoder=kl")
        split, device = data.split("train"), pl_module.device
        content = json.dumps([coder.sha256, data.content, data.flip])
        path = self.folder / f"latents-{hashlib.sha256(content.encode()).hexdigest()[:32]}.npy"
        strategy: Any = trainer.strategy
        if not strategy.broadcast(path.is_file()):
            part = Path(strategy.broadcast(str(path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part"))))
            try:
                if trainer.is_global_zero:
                    _make(part, self._shape(coder, split, data.flip, device))
                strategy.barrier("latents begun")
                fill(part, coder, split, data.flip, device, trainer.global_rank, trainer.world_size)
                strategy.barrier("latents made")
                if trainer.is_global_zero:
                    part.replace(path)
            finally:
                if trainer.is_global_zero:
                    part.unlink(missing_ok=True)
            strategy.barrier("latents named")
        if not path.is_file():
            raise DataError(f"{path} is not there for rank {trainer.global_rank}; name a folder that all ranks share")
        # copy-on-write: torch asks for a writable array, and the file stays as it is
        data.moments = torch.from_numpy(np.load(path, mmap_mode="c"))

    def _shape(self, coder: Autoencoder, split: Split, flip: bool, device: torch.device) -> tuple[int, ...]:
        with torch.no_grad():
            one = coder.moments(split.batch(torch.arange(1))["image"].to(device))
        shape = (len(split) * (1 + flip), *one.shape[1:])
        self.folder.mkdir(parents=True, exist_ok=True)
        need, free = 4 * int(np.prod(shape)), shutil.disk_usage(self.folder).free
        if need > free:
            raise DataError(
                f"the latents of {len(split)} pictures take {need / 1e9:.1f} GB, and {self.folder} has "
                f"{free / 1e9:.1f} GB left; set callbacks.latents.folder to a larger disk, or train without it"
            )
        log.info("encoding %d pictures once, %.1f GB in %s", shape[0], need / 1e9, self.folder)
        return shape


def _make(path: Path, shape: tuple[int, ...]) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()


@torch.no_grad()
def fill(
    path: Path, coder: Autoencoder, split: Split, flip: bool, device: torch.device, rank: int = 0, world_size: int = 1
) -> None:
    """Writes this rank's share of the moments, those of mirrored pictures N rows below those of pictures."""
    if not path.is_file():
        raise DataError(f"{path} is not there for rank {rank}; name a folder that all ranks share")
    array = np.load(path, mmap_mode="r+")
    rows = share(torch.arange(len(split)), rank, world_size)
    batches = rows.split(getattr(coder, "at_once", 16))
    for batch in _shown(batches, len(rows), quiet=rank > 0):
        image = split.batch(batch)["image"].to(device)
        array[batch.numpy()] = coder.moments(image).cpu().numpy()
        if flip:
            array[batch.numpy() + len(split)] = coder.moments(image.flip(-1)).cpu().numpy()
    array.flush()


def _shown(batches: tuple[Tensor, ...], count: int, quiet: bool) -> Iterator[Tensor]:
    hidden = quiet or count < _WORTH_A_BAR or not Console().is_terminal
    yield from track(batches, f"encoding {count} pictures", transient=True, disable=hidden)


_WORTH_A_BAR = 500
