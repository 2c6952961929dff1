"""python -m benchmarks.allocator [--rounds 5] [--threads 2]: what keeping freed memory brings on this machine.

The same work in processes of their own, since the setting holds for a whole process: with the C library's default, and
with ``keep_freed_memory`` as scripts have it. They take turns; figures are medians of wall and processor time of a
call, the second including what the kernel does for page faults.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.training_step import training_step
from diffusion.evaluation.features.extractor import Extractor, extract
from diffusion.experiment.process.allocator import set_allocator
from diffusion.network.unet import UNet
from diffusion.types import Cond


def train(network: UNet, batch: int, image: int) -> Callable[[], object]:
    """A training step."""
    x, label = torch.randn(batch, network.in_channels, image, image), torch.rand(batch) * 1000
    return training_step(network, lambda x, label: network(x, label, Cond()), x, label)


def features(name: str, batch: int, channels: int, side: int) -> Callable[[], object]:
    """Features of one batch."""
    extractor = Extractor(name)
    network = extractor.build([extractor.layer("fd")])
    images = torch.randint(0, 256, (batch, channels, side, side), dtype=torch.uint8)
    return lambda: extract(network, images)


WORK: dict[str, tuple[Callable[[], Callable[[], object]], int]] = {
    "training step, U-Net of 64 channels, 32x32, batch 16": (
        lambda: train(UNet(3, 32, channels=64, channel_mult=(1, 2, 2), num_res_blocks=1, attention=(16,)), 16, 32),
        4,
    ),
    "training step, network=unet_tiny, 8x8, batch 64": (
        lambda: train(UNet(1, 8, channels=32, channel_mult=(1, 2), num_res_blocks=1, attention=(4,)), 64, 8),
        40,
    ),
    "features of fashion-cnn-v1, batch 512": (lambda: features("fashion-cnn-v1", 512, 1, 28), 10),
    "features of efficientnet-lite0, batch 64": (lambda: features("efficientnet-lite0", 64, 3, 32), 2),
}
"""What is timed, and in how many calls."""


def measure(work: str, keep: bool, threads: int) -> dict[str, float]:
    """Seconds and page faults of a call in this process."""
    set_allocator({"keep_freed_memory": keep})
    torch.set_num_threads(threads)
    make, calls = WORK[work]
    run = make()
    for _ in range(2):
        run()
    wall, cpu, faults = time.perf_counter(), time.process_time(), _usage().ru_minflt
    for _ in range(calls):
        run()
    return {
        "wall": (time.perf_counter() - wall) / calls,
        "cpu": (time.process_time() - cpu) / calls,
        "faults": (_usage().ru_minflt - faults) / calls,
        "memory": _usage().ru_maxrss / 1e6,
    }


def _usage() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_SELF)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allocator", description="Keeping freed memory.")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", nargs=2, metavar=("WORK", "KEEP"), help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        work, keep = arguments.one
        print(json.dumps(measure(work, keep == "True", arguments.threads)))
        return
    table = Table("work", "wall ms", "processor ms", "page faults", "peak GB", "wall: system / kept", "processor")
    for work in WORK:
        found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for _ in range(arguments.rounds):
            for keep in found:
                command = [sys.executable, "-m", "benchmarks.allocator", "--threads", str(arguments.threads)]
                done = subprocess.run([*command, "--one", work, str(keep)], capture_output=True, text=True, check=True)
                found[keep].append(json.loads(done.stdout))
        middle = {keep: {key: median(one[key] for one in ones) for key in ones[0]} for keep, ones in found.items()}
        pair = [middle[False], middle[True]]
        table.add_row(
            work,
            " -> ".join(f"{1e3 * one['wall']:.1f}" for one in pair),
            " -> ".join(f"{1e3 * one['cpu']:.1f}" for one in pair),
            " -> ".join(f"{one['faults']:,.0f}" for one in pair),
            " -> ".join(f"{one['memory']:.2f}" for one in pair),
            *(f"{pair[0][key] / pair[1][key]:.2f}" for key in ("wall", "cpu")),
        )
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
