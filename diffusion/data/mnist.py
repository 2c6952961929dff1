"""MNIST and the sets of its shape: 60,000 + 10,000 grey images, 28 x 28, ten classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from diffusion.data.base import SPLITS, ImageData, SplitName
from diffusion.data.fetch import fetch
from diffusion.data.split import Split
from diffusion.errors import DataError

DATASETS = ("MNIST", "FashionMNIST", "KMNIST")


class MNIST(ImageData):
    """MNIST (LeCun et al. 1998), FashionMNIST (Xiao et al. 2017) or KMNIST (Clanuwat et al. 2018), read by torchvision.

    A resolution above 28 puts a black margin around the images (32: two pixels), which a U-Net can halve more often.

    Args:
        root: torchvision's root, the folder that holds "MNIST", "FashionMNIST" or "KMNIST".
        download: fetch the files where they are missing.
    """

    def __init__(
        self,
        dataset: str = "MNIST",
        root: str = "data",
        download: bool = True,
        channels: int = 1,
        resolution: int = 28,
        num_classes: int = 10,
        batch_size: int = 128,
        flip: bool = False,
        num_workers: int = 0,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        if dataset not in DATASETS:
            raise DataError(f"data.dataset is one of {', '.join(DATASETS)}, got {dataset!r}")
        if (channels, num_classes) != (1, 10) or resolution < 28 or resolution % 2:
            raise DataError(
                f"{dataset} has 1 channel, 10 classes and 28 x 28 pixels, to which an even margin can be added, got "
                f"channels={channels} num_classes={num_classes} resolution={resolution}; set data.resolution=28 or 32"
            )
        super().__init__(
            name=dataset,
            channels=channels,
            resolution=resolution,
            num_classes=num_classes,
            batch_size=batch_size,
            flip=flip,
            num_workers=num_workers,
            pin_memory=pin_memory,
            seed=seed,
        )
        self.root, self.download = Path(root), download

    def read(self) -> dict[SplitName, Split]:
        return {name: self._read(name == "train") for name in SPLITS}

    def preprocessing(self) -> dict[str, Any]:
        return {"margin": self._margin}

    @property
    def _margin(self) -> int:
        return (self.resolution - 28) // 2

    def _read(self, train: bool) -> Split:
        from torchvision import datasets  # slow to import

        kind = getattr(datasets, self.name or "")
        data = fetch(
            lambda download: kind(self.root, train, download=download), kind.__name__, self.root, self.download
        )
        images: Tensor = data.data[:, None]
        return Split(pad(images, 4 * [self._margin]).contiguous(), torch.as_tensor(data.targets, dtype=torch.int64))
