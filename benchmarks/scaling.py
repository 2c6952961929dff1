"""python -m benchmarks.scaling: what a training step costs against channels, resolution and batch.

A U-Net of two levels, two blocks a level, attention at the second: forward, backward and fused AdamW in float32. One
of the three sizes changes at a time, all points take turns with the peak. FLOPs are counted on the network as it runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.__main__ import machine
from benchmarks.harness import counts, race
from benchmarks.peak import peak
from benchmarks.report import points
from benchmarks.training_step import count_flops, training_step
from diffusion.network.unet import UNet
from diffusion.types import Cond

BASE = {"channels": 64, "resolution": 16, "batch": 8}
GRID = {"channels": (16, 32, 64, 128), "resolution": (8, 16, 32), "batch": (2, 8, 32)}
PICTURE = Path(__file__).parents[1] / "docs" / "img" / "scaling.png"


def measure(budget: float, grid: dict[str, tuple[int, ...]] | None = None) -> list[dict[str, Any]]:
    """The points with at least one clean sample: sizes, parameters, FLOPs and median seconds of a step, of peak."""
    sizes = {tuple((BASE | {name: v}).values()) for name, values in (grid or GRID).items() for v in values}
    runs: dict[str, Callable[[], object]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for channels, resolution, batch in sorted(sizes):
        network = UNet(3, resolution, channels=channels, channel_mult=(1, 2), attention=[resolution // 2])
        x, label = torch.randn(batch, 3, resolution, resolution), torch.rand(batch) * 1000
        step = training_step(network, lambda x, label, network=network: network(x, label, Cond()), x, label)
        name = f"{channels} {resolution} {batch}"
        facts[name] = {"channels": channels, "resolution": resolution, "batch": batch, "flops": count_flops(step)}
        facts[name]["parameters"] = sum(p.numel() for p in network.parameters())
        runs[name] = step
    runs["peak"], peak_flops, _ = peak(torch.get_num_threads())
    timings = race(runs, budget)
    most = peak_flops / timings["peak"].median
    return [
        fact | {"seconds": s, "of_peak": fact["flops"] / s / most, "samples": counts(timings, name)}
        for name, fact in facts.items()
        if (s := timings[name].median) == timings[name].median
    ]


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Three panels, milliseconds a step against one size each, with the share of peak beside each point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, axes = plt.subplots(1, len(BASE), figsize=(10, 3), sharey=True, layout="constrained")
    for axis, name in zip(axes, BASE, strict=True):
        others = {k: v for k, v in BASE.items() if k != name}
        line = sorted((p for p in found if all(p[k] == v for k, v in others.items())), key=lambda p: p[name])
        axis.loglog([p[name] for p in line], [p["seconds"] * 1e3 for p in line], "o-")
        for p in line:
            axis.annotate(f"{p['of_peak']:.0%}", (p[name], p["seconds"] * 1e3), (0, 6), textcoords="offset points")
        axis.set_xlabel(f"{name} ({', '.join(f'{k} {v}' for k, v in others.items())})")
        axis.set_xticks([p[name] for p in line], [str(p[name]) for p in line], minor=False)
        axis.set_xticks([], minor=True)
        axis.margins(0.15)
    axes[0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes[0].yaxis.set_minor_formatter(ticker.NullFormatter())
    axes[0].set_ylabel("ms a training step (share of peak)")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description="What a training step costs.")
    parser.add_argument("--budget", type=float, default=90.0, help="seconds")
    parser.add_argument("--threads", type=int, default=None, help="1 = processor time of one thread, load or no load")
    parser.add_argument("--json", type=Path, default=None, help="also write the points here, for benchmarks.report")
    parser.add_argument("--png", type=Path, default=PICTURE, help="where the curves go")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    found = measure(arguments.budget)
    Console(width=160).print(points(found), markup=False)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine(), "points": found}, indent=2) + "\n")
    draw(found, arguments.png)


if __name__ == "__main__":
    main()
