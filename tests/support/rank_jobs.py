"""A function run by one, two and three ranks."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Ranked:
    """As much of a trainer as a step uses."""

    max_steps, accumulate_grad_batches, gradient_clip_val, global_step = 3, 1, None, 0

    def __init__(self, world_size: int, global_rank: int) -> None:
        self.world_size, self.global_rank = world_size, global_rank


def on_ranks(job: Callable[..., None], folder: Path, seconds: int = 240) -> list[Any]:
    """What ``job(rank, size, folder, store, conn)`` of the first rank sends, for groups of 1, 2 and 3."""
    results = []
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pytest", "sklearn.datasets", "diffusion.experiment.task.train", "diffusion.testing"]
    )
    for size in (1, 2, 3):
        mine, theirs = context.Pipe()
        store = str(folder / f"store{size}")
        jobs = [
            context.Process(target=job, args=(rank, size, str(folder / f"r{size}{rank}"), store, theirs))
            for rank in range(size)
        ]
        for one in jobs:
            one.start()
        assert mine.poll(seconds)
        results.append(mine.recv())
        for one in jobs:
            one.join(60)
            assert one.exitcode == 0
    return results
