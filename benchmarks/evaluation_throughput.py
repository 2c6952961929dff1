"""Does a second rank halve the time of an evaluation? The same one on one and on two ranks, one thread each.

python benchmarks/evaluation_throughput.py
"""

from __future__ import annotations

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
from diffusion.evaluation.generate import Generator
from diffusion.network.unet import UNet
from diffusion.parameterization.epsilon import Epsilon
from diffusion.sampler.ancestral import Ancestral
from diffusion.schedule.cosine import Cosine

SAMPLES, BATCH, STEPS = 1280, 64, 20


def work(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store{ranks}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    torch.manual_seed(0)
    network = UNet(1, 8, channels=32, channel_mult=(1, 2), num_res_blocks=1, attention=(4,)).eval()
    generator = Generator(NetworkDenoiser(network, Cosine(), Epsilon()), Ancestral(STEPS), (1, 8, 8))
    plan, data = Evaluator(num_samples=SAMPLES, batch_size=BATCH), Digits()
    generator(torch.arange(BATCH), 0)  # the first call is slower
    dist.barrier()
    wall, cpu = time.perf_counter(), time.process_time()
    plan.evaluate(generator, data)
    (Path(folder) / f"{ranks}-{rank}").write_text(f"{time.perf_counter() - wall} {time.process_time() - cpu}")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console()
    taken = {}
    with tempfile.TemporaryDirectory() as folder:
        for ranks in (1, 2):
            mp.spawn(work, args=(ranks, folder), nprocs=ranks)
            times = [tuple(map(float, file.read_text().split())) for file in Path(folder).glob(f"{ranks}-*")]
            taken[ranks] = max(wall for wall, _ in times)
            console.print(
                f"{ranks} ranks: {taken[ranks]:.1f} s, {SAMPLES / taken[ranks]:.1f} samples/s, "
                f"CPU seconds of all ranks {sum(cpu for _, cpu in times):.1f}"
            )
    console.print(f"speed-up {taken[1] / taken[2]:.2f}")
