"""CIFAR-10: 50,000 + 10,000 colour images, 32 x 32, ten classes."""

from __future__ import annotations

from pathlib import Path

import torch

from diffusion.data.base import SPLITS, ImageData, SplitName
from diffusion.data.fetch import fetch
from diffusion.data.split import Split
from diffusion.errors import DataError


class CIFAR10(ImageData):
    """CIFAR-10 (Krizhevsky 2009), read by torchvision; batch 128 and horizontal flips as in DDPM (Ho et al. 2020, B).

    Args:
        root: torchvision's root, the folder that holds "cifar-10-batches-py".
        download: fetch the files where they are missing.
    """

    def __init__(
        self,
        root: str = "data",
        download: bool = True,
        channels: int = 3,
        resolution: int = 32,
        num_classes: int = 10,
        batch_size: int = 128,
        flip: bool = True,
        num_workers: int = 0,
        pin_memory: bool = True,
        seed: int = 0,
    ) -> None:
        if (channels, resolution, num_classes) != (3, 32, 10):
            raise DataError(
                f"CIFAR-10 has 3 channels, 32 x 32 pixels and 10 classes, got channels={channels} "
                f"resolution={resolution} num_classes={num_classes}; leave these keys alone or choose other data"
            )
        super().__init__(
            name="cifar10",
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

    def _read(self, train: bool) -> Split:
        from torchvision import datasets  # slow to import

        data = fetch(
            lambda download: datasets.CIFAR10(self.root, train, download=download), "CIFAR-10", self.root, self.download
        )
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
        return Split(images, torch.tensor(data.targets, dtype=torch.int64))
