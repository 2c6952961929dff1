"""How the Frechet distance of real images depends on their number, and what rank 0 needs of memory for 50,000.

python benchmarks/evaluation_sample_size.py curve --data data     # Fashion-MNIST, test against train: table, image
python benchmarks/evaluation_sample_size.py memory                # 50,000 x 2048 features, random
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from diffusion.data.mnist import MNIST
from diffusion.evaluation.features.extractor import Extractor, extract
from diffusion.evaluation.metrics import fidelity
from diffusion.evaluation.metrics.fidelity import Side
from diffusion.evaluation.metrics.frechet import Statistics, frechet

SIZES = (250, 500, 1000, 2500, 5000)
DRAWS = 5
console = Console()


def curve(folder: str, image: Path) -> None:
    """FD and KID of n test images against the 60,000 training images, mean and standard deviation of five draws."""
    data = MNIST(dataset="FashionMNIST", root=folder)
    network = Extractor("fashion-cnn-v1").build(["features"])
    train, test = (
        torch.cat([extract(network, images)["features"] for images in data.split(name).images.split(250)])
        for name in ("train", "test")
    )
    reference = Side({"features": train})
    layers = dict.fromkeys(fidelity.METRICS, "features")
    random = torch.Generator().manual_seed(0)
    rows = []
    for n in (*SIZES, len(test)):
        draws = DRAWS if n < len(test) else 1
        found = []
        for _ in range(draws):
            side = Side({"features": test[torch.randperm(len(test), generator=random)[:n]]})
            found.append([frechet(side.statistics("features"), reference.statistics("features"))])
            found[-1] += fidelity.compute(fidelity.shipped(["kid"], _PROTOCOL), side, reference, layers)["kid"].values()
        values = torch.tensor(found)
        spread = values.std(0).tolist() if draws > 1 else [float("nan")] * values.shape[1]
        mean = values.mean(0).tolist()
        rows.append((n, mean[0], spread[0], mean[1], spread[1]))
        console.print(f"n {n:6d}  FD {mean[0]:.3f} +- {spread[0]:.3f}  KID {mean[1]:.4f} +- {spread[1]:.4f}")
    _plot(np.array(rows), image)


def _plot(rows: np.ndarray, image: Path) -> None:
    """rows: n, FD and its spread, KID and its spread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    n, fd, fd_std, kid, kid_std = rows.T
    left.errorbar(n, fd, np.nan_to_num(fd_std), marker="o", capsize=3)
    left.plot(n, fd[0] * n[0] / n, ":", color="grey", label="proportional to 1/n")
    left.set(xscale="log", yscale="log", xlabel="images n", ylabel="FD-fashion-cnn-v1")
    left.legend(frameon=False)
    right.axhline(0, color="grey", linestyle=":")
    right.errorbar(n, kid, np.nan_to_num(kid_std), marker="o", capsize=3)
    right.set(xscale="log", xlabel="images n", ylabel="KID")
    figure.suptitle("Real test images of Fashion-MNIST against its training images")
    figure.savefig(image, dpi=110)


def memory() -> None:
    """Peak memory and time of each metric on 50,000 rows of Inception's width on both sides."""
    random = torch.Generator().manual_seed(0)
    rows, real = (torch.rand(50_000, 2048, generator=random) for _ in range(2))
    console.print(f"rows of both sides: {_peak():.2f} GB")
    began = time.perf_counter()
    frechet(Statistics.of(rows), Statistics.of(real))
    console.print(f"fd: {time.perf_counter() - began:.0f} s, peak so far {_peak():.2f} GB")
    layers = dict.fromkeys(fidelity.METRICS, "features")
    for metric in ("is", "kid", "precision"):
        began = time.perf_counter()
        cut = slice(None, 10_000) if metric == "precision" else slice(None)
        chosen = fidelity.shipped([metric], _PROTOCOL)
        fidelity.compute(chosen, Side({"features": rows[cut]}), Side({"features": real[cut]}), layers)
        console.print(f"{metric}: {time.perf_counter() - began:.0f} s, peak so far {_peak():.2f} GB")


_PROTOCOL = fidelity.Protocol()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["curve", "memory"])
    parser.add_argument("--data", default="data", help="where FashionMNIST lies")
    parser.add_argument("--image", type=Path, default=Path("docs/img/sample_size.png"))
    args = parser.parse_args()
    curve(args.data, args.image) if args.what == "curve" else memory()
