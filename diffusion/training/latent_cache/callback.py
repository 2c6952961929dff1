"""Latents made once: encoding images at every step costs more than the training of a small network."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks.callback import Callback

from diffusion.autoencoder.base import Autoencoder
from diffusion.data.base import SplitName
from diffusion.data.split import share
from diffusion.errors import DataError
from diffusion.training.latent_cache.encoding import Encoding
from diffusion.training.module.diffusion import DiffusionModule

log = logging.getLogger(__name__)


class LatentCache(Callback):
    """Images go through the autoencoder before the first step, into files that are mapped from then on.

    A file holds the moments of the posterior in float32, so that each step draws its latents as if the images had
    just been encoded, and those of mirrored training images too where the data are flipped. Its name is a hash of the
    autoencoder's weights, the images and their flips. Ranks share the work, and so must share the folder; a killed
    job's work is resumed, and of several jobs that need the same file one makes it while the others wait.
    Held-out images have a file where validation looks at all of them.

    Args:
        folder: of the files; one of Stable Diffusion's 4 x 32 x 32 latents takes 32 KiB an image.

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
                "callbacks=latents encodes images once, and augmentation changes them at every step; use "
                "callbacks=default, or augmentation=none"
            )
        if isinstance(pl_module, DiffusionModule) and "image" in pl_module.model.conditioner.columns:
            raise DataError(
                "callbacks=latents leaves images out of batches, and this conditioner hides parts of them; use "
                "callbacks=default"
            )
        cut = data.split("train").cut
        if cut is not None and (cut.random or cut.groups is not None):
            raise DataError(
                "callbacks=latents encodes images once and in one shape, which random cuts and buckets change; use "
                "callbacks=default, or data.crop=center data.bucket_ratio=1"
            )
        coder = pl_module.model.autoencoder if isinstance(pl_module, DiffusionModule) else None
        if coder is None or coder.sha256 is None:
            raise DataError("callbacks=latents keeps what an autoencoder makes of images; add autoencoder=kl")
        names: tuple[SplitName, ...] = ("train", "test") if trainer.limit_val_batches == 1.0 else ("train",)
        for name in names:
            flip = data.flip and name == "train"
            content = json.dumps([coder.sha256, data.content(name), flip])
            path = self.folder / f"latents-{hashlib.sha256(content.encode()).hexdigest()[:32]}.npy"
            made = Encoding(path, data.split(name), flip)
            self._make(made, coder, trainer, pl_module.device)
            data.moments[name] = made.mapped()

    def _make(self, made: Encoding, coder: Autoencoder, trainer: pl.Trainer, device: Any) -> None:
        strategy: Any = trainer.strategy
        first, logged = trainer.is_global_zero, False
        try:
            while not strategy.broadcast(made.path.is_file()):
                if not strategy.broadcast(first and made.claim()):
                    if first and not logged:
                        log.info("another job is making %s: waiting for it", made.path)
                    logged = True
                    time.sleep(WAIT)
                    continue
                if strategy.broadcast(made.path.is_file()):  # the other job has finished between the two looks
                    break
                if first:
                    made.begin(coder, device)
                strategy.barrier("latents begun")
                mine = share(made.missing(), trainer.global_rank, trainer.world_size)
                strategy.barrier("latents dealt")
                made.fill(coder, device, mine, quiet=not first)
                strategy.barrier("latents made")
                if first:
                    made.finish()
                strategy.barrier("latents named")
        finally:
            made.release()
        if not made.path.is_file():
            raise DataError(
                f"{made.path} is not there for rank {trainer.global_rank}; name a folder that all ranks share"
            )


WAIT = 2.0
"""Seconds between two looks at what another job makes."""
