"""Does a second rank halve the time of an evaluation? The same one on one and on two ranks, one thread each.

python benchmarks/evaluation_throughput.py

Everything between a built model and its result is timed: reference, floor, drawing, features, gathering, metrics on
rank 0. Starting processes and importing torch is not. The metrics, which one rank computes, take the same few seconds
however many images there are. About two minutes on two quiet cores; with --rounds 2 the faster run of each counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from rich.console import Console

from diffusion.data.digits import Digits
from diffusion.denoiser import NetworkDenoiser
from diffusion.evaluation.evaluator import Evaluator
from diffusion.experiment.process.allocator import keep_freed_memory
from diffusion.model import DiffusionModel
from diffusion.network.unet import UNet
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.schedule.cosine import CosineSchedule

BATCH, STEPS = 64, 20


def work(rank: int, ranks: int, samples: int, folder: str) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    network = UNet(1, 8, channels=32, channel_mult=(1, 2), num_res_blocks=1, attention=(4,)).eval()
    denoiser = NetworkDenoiser(network, CosineSchedule(), EpsilonParameterization())
    model = DiffusionModel(denoiser, sampler=AncestralSampler(STEPS), shape=(1, 8, 8)).eval()
    pipeline = model.pipeline(batch_size=BATCH)
    plan, data = Evaluator(num_samples=samples, batch_size=BATCH), Digits()
    pipeline.draw(torch.arange(BATCH), 0)  # the first call is slower
    dist.barrier()
    wall, cpu, drawn = time.perf_counter(), time.process_time(), pipeline.drawn
    cost = plan.evaluate(pipeline, data).fingerprint["cost"]
    times = [time.perf_counter() - wall, time.process_time() - cpu, cost["sampling_seconds"], pipeline.drawn - drawn]
    (Path(folder) / f"rank{rank}").write_text(" ".join(map(str, times)))
    dist.destroy_process_group()


def timed(ranks: int, samples: int, console: Console) -> float:
    """Seconds of the slowest rank."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, args=(ranks, samples, folder), nprocs=ranks)
        measured = [tuple(map(float, (Path(folder) / f"rank{r}").read_text().split())) for r in range(ranks)]
    wall = max(one[0] for one in measured)
    console.print(
        f"{ranks} rank{'s' * (ranks > 1)}: {wall:.1f} s, {samples / wall:.1f} samples/s; drawing and features "
        f"{measured[0][2]:.1f} s of all ranks, {sum(one[1] for one in measured):.1f} CPU seconds, samples of each "
        f"{', '.join(f'{one[3]:.0f}' for one in measured)}"
    )
    return wall


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console()
    console.print(f"load of the machine before: {os.getloadavg()[0]:.2f}")
    runs = [(timed(1, args.samples, console), timed(2, args.samples, console)) for _ in range(args.rounds)]
    one, two = (min(seconds) for seconds in zip(*runs, strict=True))
    console.print(f"speed-up {one / two:.2f}, the requirement is 1.8")
