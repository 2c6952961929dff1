"""Pictures per second of the in-memory data path against torchvision's DataLoader over PIL pictures.

    python benchmarks/data.py

50,000 pictures of 32 x 32 in batches of 128, shuffled, mirrored at random, scaled to [-1, 1]: CIFAR-10's shape and
DDPM's augmentation, with random bytes in place of the photographs. All paths are timed in turns in one process. A
sample in which other programs took more than a tenth of the machine is dropped; fewer than five clean ones are no
verdict.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from diffusion.data.loader import StatefulLoader
from diffusion.data.split import Split

PICTURES, BATCH = 50_000, 128
MUST, AIM = 20, 100
FOREIGN, FEWEST = 0.1, 5
PREPARED, REST = 8, 0.2


class Synthetic(datasets.CIFAR10):
    """torchvision's CIFAR-10 (its ``__getitem__`` goes through PIL) with bytes of our own in place of its files."""

    def __init__(self, data: np.ndarray, targets: list[int]) -> None:
        self.data, self.targets, self.target_transform = data, targets, None
        scale = transforms.Normalize(3 * [0.5], 3 * [0.5])
        self.transform = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor(), scale])

    def __repr__(self) -> str:
        return "Synthetic()"


def rate(batches: Iterator[Any], count: int) -> float | None:
    """Pictures/s over ``count`` batches, or ``None`` where other programs were busy meanwhile.

    What workers prepared beforehand is used up before the clock starts, and they come to rest before the next turn.
    """
    for _ in range(PREPARED):
        next(batches)
    own, before, start = _own_seconds(), psutil.cpu_times(), time.perf_counter()
    for _ in range(count):
        next(batches)
    wall = time.perf_counter() - start
    after, used = psutil.cpu_times(), _own_seconds() - own
    idle = after.idle + after.iowait - before.idle - before.iowait
    cores = psutil.cpu_count() or 1
    time.sleep(REST)
    return count * BATCH / wall if cores * wall - idle - used < FOREIGN * cores * wall else None


def endless(loader: Any, wrap: Callable[[Any], Any] = lambda batch: batch) -> Iterator[Any]:
    while True:
        for batch in loader:
            yield wrap(batch)


def _own_seconds() -> float:
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (me, *me.children(recursive=True)))


def paths() -> dict[str, tuple[Iterator[Any], int]]:
    """Each data path and how many of its batches make a sample of some 0.3 s."""
    data = np.random.default_rng(0).integers(0, 256, (PICTURES, 32, 32, 3), np.uint8)
    labels = np.random.default_rng(1).integers(0, 10, PICTURES)
    peer = Synthetic(data, labels.tolist())
    split = Split(torch.from_numpy(data).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
    found: dict[str, tuple[Iterator[Any], int]] = {}
    for workers in (0, 2):
        loader = DataLoader(
            peer, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
        )
        found[f"torchvision, {workers} workers"] = endless(loader), 16
    found["ours"] = endless(StatefulLoader(split, BATCH, seed=0, flip=True)), 4 * (PICTURES // BATCH)
    found["ours, no mirrored copy"] = (
        endless(StatefulLoader(split, BATCH, seed=0, flip=True, mirror_in_memory=False)),
        PICTURES // BATCH,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="turns of each path")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and nothing else")
    arguments = parser.parse_args()
    found = paths()
    samples: dict[str, list[float]] = {name: [] for name in found}
    for batches, count in found.values():
        rate(batches, count)  # workers started, memory touched
    for _ in range(arguments.repeats):
        for name, (batches, count) in found.items():
            if (measured := rate(batches, count)) is not None:
                samples[name].append(measured)
    enough = {name: statistics.median(s) for name, s in samples.items() if len(s) >= FEWEST}
    peers = [value for name, value in enough.items() if name.startswith("torchvision")]
    ratio = {name: value / max(peers) for name, value in enough.items()} if len(peers) == 2 else {}
    if arguments.json:
        print(
            json.dumps({"pictures_per_s": enough, "ratio": ratio, "samples": {n: len(s) for n, s in samples.items()}})
        )
        return
    table = Table("path", "clean samples", "pictures/s", "against the faster torchvision", title="in-memory data path")
    for name, values in samples.items():
        speed = f"{enough[name]:,.0f}" if name in enough else "inconclusive"
        table.add_row(name, str(len(values)), speed, f"{ratio[name]:.1f}x" if name in ratio else "inconclusive")
    Console().print(table)
    if "ours" in ratio:
        Console().print(f"must reach {MUST}x: {'yes' if ratio['ours'] >= MUST else 'NO'}; aims at {AIM}x")


if __name__ == "__main__":
    main()
