"""Row 11: images per second of the in-memory data path against torchvision's DataLoader over PIL images.

50,000 images of 32 x 32 in batches of 128, shuffled, mirrored at random, scaled to [-1, 1]: CIFAR-10's shape and
DDPM's augmentation, with random bytes in place of the photographs. What workers prepared beforehand is used up before
the clock starts, and they have come to rest before others' turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice, repeat
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.harness import Row, counts, race
from diffusion.data.loader import StatefulLoader
from diffusion.data.split import Split

BATCH = 128
PREPARED, REST = 8, 0.2


class Synthetic(datasets.CIFAR10):
    """torchvision's CIFAR-10 (its ``__getitem__`` goes through PIL) with bytes of our own in place of its files."""

    def __init__(self, data: np.ndarray, targets: list[int]) -> None:
        self.data, self.targets, self.target_transform = data, targets, None
        scale = transforms.Normalize(3 * [0.5], 3 * [0.5])
        self.transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor(), scale])

    def __repr__(self) -> str:
        return "Synthetic()"


def rows(budget: float = 45.0, small: bool = False, images: int = 50_000) -> list[Row]:
    """Row 11; against the DataLoader without workers where small."""
    data = np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), np.uint8)
    labels = np.random.default_rng(1).integers(0, 10, images)
    peer = Synthetic(data, labels.tolist())
    split = Split(torch.from_numpy(data).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    mine: Any = StatefulLoader(split, BATCH, seed=0, flip=True)
    counted = {"ours": (_endless(mine), len(mine))}
    for workers in (0,) if small else (0, 2):
        loader = DataLoader(
            peer, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )
        counted[f"torchvision's DataLoader of PIL images, {workers} workers"] = _endless(loader), 16
    timings = race(
        {name: partial(_take, batches, count) for name, (batches, count) in counted.items()},
        budget,
        before={name: partial(_rested, batches) for name, (batches, _) in counted.items()},
    )
    seconds = {name: timings[name].median / count for name, (_, count) in counted.items()}
    peers = [name for name in counted if name != "ours"]
    best = min(peers, key=lambda name: seconds[name])
    clean = all(timing.clean for timing in timings.values())
    return [
        Row("11", f"in-memory data path, {images} images of 32x32: images/s ({BATCH / seconds['ours']:,.0f})",
            f"{best} ({BATCH / seconds[best]:,.0f})", seconds[best] / seconds["ours"] if clean else None, 20.0, 100.0,
            False, counts(timings, *counted)),
    ]  # fmt: skip


def _endless(loader: Any) -> Iterator[Any]:
    return chain.from_iterable(repeat(loader))


def _take(batches: Iterator[Any], count: int) -> None:
    for _ in islice(batches, count):
        pass


def _rested(batches: Iterator[Any]) -> None:
    """Whoever was before us has stopped preparing, and nothing is prepared for us."""
    time.sleep(REST)
    _take(batches, PREPARED)
