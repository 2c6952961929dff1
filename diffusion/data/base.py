"""The base of data sets: two splits of images, their facts, and the loaders over them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
from pytorch_lightning import LightningDataModule
from torch import Tensor

from diffusion.data.loader import StatefulLoader
from diffusion.data.ordered import OrderedLoader
from diffusion.data.split import Split
from diffusion.errors import DataError

__all__ = ["SPLITS", "DataError", "ImageData", "SplitName"]

SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, SplitName] = ("train", "test")


class ImageData(LightningDataModule, ABC):
    """A data set of images. A subclass reads its splits in :meth:`read`.

    channels, resolution (H = W), num_classes (0 = no labels) are facts of the config, known without reading a file and
    compared with the data in :meth:`setup`.

    Args:
        batch_size: of the global batch, over all ranks (the papers' number).
        flip: mirror each training image with probability 1/2.
        num_workers: threads that prepare training batches ahead.
        pin_memory: page-locked batches where there is a GPU.
        seed: of order and flips; never of the split.
    """

    file: Path | None = None
    """The file that the images are mapped from, named by a hash of their source; ``None`` in memory."""
    classes: tuple[str, ...] | None = None
    """The words that labels stand for, in the order of their numbers, once :meth:`setup` is done; ``None`` without."""
    value_range: tuple[float, float] | None = None
    """The values that -1 and 1 stand for, of data of floats; ``None`` of 8-bit images."""
    parts: int = 1
    """Equal parts in which a training batch is delivered, one after the other."""

    def __init__(
        self,
        *,
        name: str,
        channels: int,
        resolution: int,
        num_classes: int,
        batch_size: int,
        flip: bool,
        num_workers: int,
        pin_memory: bool,
        seed: int,
    ) -> None:
        super().__init__()
        for key, value, least in (("batch_size", batch_size, 1), ("resolution", resolution, 1)):
            if value < least:
                raise DataError(f"data.{key} is at least {least}, got {value}")
        for key, value in (("num_workers", num_workers), ("num_classes", num_classes)):
            if value < 0:
                raise DataError(f"data.{key} is 0 or more, got {value}")
        self.name = name
        self.channels, self.resolution, self.num_classes = channels, resolution, num_classes
        self.batch_size, self.flip, self.num_workers, self.pin_memory = batch_size, flip, num_workers, pin_memory
        self.seed = seed
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a test split smaller than the ranks
        self.moments: dict[SplitName, Tensor] = {}
        """Moments of a split's latents, computed once, that the loaders give in place of images."""
        self._splits: dict[str, Split] = {}

    @abstractmethod
    def read(self) -> dict[SplitName, Split]:
        """Both splits.

        Raises:
            DataError: they are missing, unreadable or not what the config states.
        """

    def preprocessing(self) -> dict[str, Any]:
        """The preprocessing of a stored image, for the run record."""
        return {}

    def prepare_data(self) -> None:
        """Downloads and decodes; Lightning calls it on one process before :meth:`setup` on all."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Reads both splits, once.

        Raises:
            DataError: the data differ from what the config states.
        """
        if not self._splits:
            self._splits = {name: self._checked(name, split) for name, split in self.read().items()}

    def split(self, name: str) -> Split:
        """ "train" or "test".

        Raises:
            DataError: another name.
        """
        if name not in SPLITS:
            raise DataError(f"a data set has the splits {' and '.join(SPLITS)}, got {name!r}")
        self.setup()
        return self._splits[name]

    def train_dataloader(self) -> StatefulLoader:
        split = self.split("train")
        rank, world_size = self._place()
        fixed = self.trainer is not None and bool(getattr(self.trainer, "overfit_batches", 0))
        return StatefulLoader(
            split,
            self.batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            flip=self.flip,
            mirror_in_memory=self.file is None,
            moments=self.moments.get("train"),
            shuffle=not fixed,
            limit=self._limit(split),
            parts=self.parts,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def content(self, name: SplitName) -> str:
        """The identity of a split's images: the source of their file, or a hash of their content."""
        split = self.split(name)
        if self.file is None or not isinstance(split.images, Tensor):
            return split.sha256
        return f"{self.file.stem}:{name}:{len(split)}"

    def val_dataloader(self) -> OrderedLoader:
        """The test split, in order, every sample once."""
        rank, world_size = self._place()
        return OrderedLoader(
            self.split("test"),
            max(1, self.batch_size // self.parts),
            rank=rank,
            world_size=world_size,
            moments=self.moments.get("test"),
            pin_memory=self.pin_memory,
        )

    def describe(self) -> dict[str, Any]:
        """For the run record: name, sizes and content hashes of the splits, preprocessing."""
        splits = {name: {"size": len(self.split(name)), "sha256": self.split(name).sha256} for name in SPLITS}
        facts = {"channels": self.channels, "resolution": self.resolution, "num_classes": self.num_classes}
        done = {**self.preprocessing(), "flip": self.flip, "range": [-1, 1]}
        return {"name": self.name, **facts, "splits": splits, "preprocessing": done}

    def _checked(self, name: str, split: Split) -> Split:
        if len(split) == 0:
            raise DataError(f"the {name} split of {self.name} is empty; choose other data")
        expected, got = (self.channels, self.resolution, self.resolution), tuple(split.images.shape[1:])
        if got != expected:
            raise DataError(
                f"the config states that {self.name} has images of shape {expected} (channels, height, width), "
                f"the data have {got}; set data.channels={got[0]} data.resolution={got[1]}"
            )
        low, high = int(split.labels.min()), int(split.labels.max())
        if self.num_classes and not 0 <= low <= high < self.num_classes:
            raise DataError(
                f"labels of {self.name} lie in 0..{self.num_classes - 1}, the {name} split has {low}..{high}; "
                f"number the labels from 0 and set data.num_classes={high + 1}"
            )
        return split

    def _limit(self, split: Split) -> int | None:
        limit = None if self.trainer is None else self.trainer.limit_train_batches
        if isinstance(limit, float):
            return max(1, int(limit * split.batches(self.batch_size)))
        return None if limit is None else limit // self.parts  # Lightning counts parts

    def _place(self) -> tuple[int, int]:
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1
