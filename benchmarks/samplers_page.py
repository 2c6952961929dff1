"""python -m benchmarks.samplers_page: docs/samplers.md and its figure, from conf/sampler and from measurements.

Orders are measured on a Gaussian, whose ODE map and moments are exact, between two times of three schedules: the error
of the map for deterministic samplers, of mean and standard deviation for stochastic ones (exact too: every noise that
is drawn moves a row of its own, as all these samplers are affine in their noise). Calls are counted.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.exponential.dpm_solver_fast import DPMSolverFastSampler
from diffusion.sampler.rk45 import RK45Sampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.schedule.vp import VPSchedule
from diffusion.types import Cond, Prediction

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "conf" / "sampler").glob("*.yaml"))
MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.5])
RANGES = {"VP": (VPSchedule(), 0.8, 0.1), "flow": (FlowSchedule(), 0.9, 0.1), "EDM": (EDMSchedule(), 0.7, 0.3)}
STEPS = [10, 20, 40, 80, 160, 320]
EVEN = ("dpm_solver_fast", "dpm_solver_m")
"""Of order 2, and measured on even steps: small first ones make the last, of order 1 in the first of them, large."""
UNMEASURED = ("predictor_corrector", "consistency", "flow_map")
"""Langevin steps have no order; a flow map is as exact as its model, and of a plain denoiser the DDIM step."""
NEEDS = {
    "consistency": "a model trained as a flow map",
    "flow_map": "a model trained as a flow map; any other makes it DDIM",
    "ancestral": "`variance=learned`: a network that predicts it",
    "dpm_solver_v3": "a file of `scripts/model_statistics.py run=<run>`; measured here without, as DPM-Solver++",
    "euler_maruyama": "a start where alpha > 0",
    "plms": "evenly spaced times",
    "pndm": "evenly spaced times",
    "predictor_corrector": "a start where alpha > 0",
    "reverse_diffusion": "a start where alpha > 0",
    "rk45": "torchdiffeq (`alphabar[ode]`)",
}
HEAD = """# Samplers

Made by `python -m benchmarks.samplers_page`; do not edit. Choose one with `sampler=<name>`, its settings with
`sampler.<key>=<value>`. A sampler brings the spacing named here unless `spacing=<name>` is given; any sampler works
with any schedule and any target, but for what the column "needs" lists. A class built in Python has the same defaults.

Order: declared, and in brackets measured on a Gaussian between two times of three schedules (VP, flow, EDM), by the
exact map of the ODE or, with noise, by the exact mean and standard deviation. Orders above 2 of multistep methods are
seen where the first steps are small, as here; on evenly spaced steps their first ones, which have no past, bound them
by 2. NFE: calls of the network for each step, counted over 20 steps from noise to data.

| sampler | what it is | order | NFE a step | noise | spacing | needs |
|---|---|---|---|---|---|---|
"""
TAIL = """
Also there: `sampler.invert` takes data to the noise that gives them back, and
`diffusion.sampler.likelihood.FlowLogLikelihood` is the exact log-density along the probability-flow ODE, for any
schedule and target; `evaluation/likelihood=flow` makes it a metric ([evaluation](evaluation.md)).

`dpm_solver_v3` reads statistics of the model that it draws from, which are measured once from its weights and training
images; a file of other weights or another schedule is refused. `sampler.statistics=data_prediction` and
`noise_prediction` need no file, and are DPM-Solver++ and DPM-Solver with a corrector. `conf/ablation/dpm_solver_v3_*`
sets its options as in the published tables: `sampler.corrector_order=3` is the paper's corrector, and
`sampler.predictor_pseudo` and `sampler.lower_order_final` are for few steps; `sampler.corrector_times` is the
half-corrector, for large guidance scales.

    python scripts/model_statistics.py run=<run>
    python scripts/sample.py run=<run> sampler=dpm_solver_v3 sampler.steps=8

## Measured convergence

![error over steps of every sampler](img/samplers.png)

Error over steps on the three schedules; the grey line falls with the declared order. `rk45` chooses its own steps: its
panel is the error over its calls as the tolerance falls. `dpm_solver_fast`'s is over its calls and, like that of
`dpm_solver_m`, on even steps. `restart` is measured without its jumps. `predictor_corrector` has no panel: Langevin
correction is not affine in its noise.

## Spacings

Which times are visited, `spacing=<name>`; the last is always clean data.

| spacing | what it is |
|---|---|
"""


def main() -> None:
    entries = [(path, *build(path)) for path in FILES]
    curves = {path.stem: measure(path) for path in FILES if path.stem not in UNMEASURED}
    rows = [row(path, sampler, spacing, curves.get(path.stem)) for path, sampler, spacing in entries]
    spacings = [f"| `{path.stem}` | {about(path)} |" for path in sorted((ROOT / "conf" / "spacing").glob("*.yaml"))]
    (ROOT / "docs" / "samplers.md").write_text(HEAD + "\n".join(rows) + "\n" + TAIL + "\n".join(spacings) + "\n")
    draw(curves, {path.stem: sampler.order for path, sampler, _ in entries})


def build(path: Path, **settings: Any) -> tuple[Sampler, str]:
    """The sampler of a config file and the spacing that it brings."""
    node: Any = OmegaConf.load(path)
    if "statistics" in node:
        settings = {"statistics": "data_prediction", **settings}
    brought = [next(iter(entry.values())) for entry in node.pop("defaults", [])]
    name = brought[0] if brought else "trailing"
    spacing = OmegaConf.load(ROOT / "conf" / "spacing" / f"{name}.yaml")
    return instantiate({"spacing": spacing, "it": OmegaConf.merge(node, settings)}, _convert_="all")["it"], name


def about(path: Path) -> str:
    """A config's first line."""
    return path.read_text().splitlines()[0].removeprefix("# ").rstrip(".")


def row(path: Path, sampler: Sampler, spacing: str, curves: dict[str, tuple[list, list]] | None) -> str:
    calls, draws = count(build(path, steps=20)[0])
    orders = "-" if curves is None else ", ".join(f"{order(*curve):.1f}" for curve in curves.values())
    file = inspect.getfile(type(sampler))
    link = f"[`{path.stem}`](../{Path(file).relative_to(ROOT)})"
    if isinstance(sampler, RK45Sampler):
        return f"| {link} | {about(path)} | {sampler.order} | its choice | no | {spacing} | {NEEDS[path.stem]} |"
    noise = "yes" if draws else "with churn" if hasattr(sampler, "churn") else "no"
    return (
        f"| {link} | {about(path)} | {sampler.order} ({orders}) | {calls / 20:.3g} | {noise} | {spacing} | "
        f"{NEEDS.get(path.stem, '')} |"
    )


def count(sampler: Sampler) -> tuple[int, int]:
    """(calls of the network, draws of noise) from noise to data on a cosine table."""
    inner, tally = GaussianDenoiser(CosineSchedule(1000), 0.5, 0.3), {"calls": 0, "draws": 0}

    class Counted:
        schedule = inner.schedule

        def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
            tally["calls"] += 1
            return inner(x, t, cond)

    def randn_like(x: Tensor) -> Tensor:
        tally["draws"] += 1
        return torch.randn_like(x)

    sampler(Counted(), torch.randn(4, 64), randn_like=randn_like)
    return tally["calls"], tally["draws"]


def measure(path: Path) -> dict[str, tuple[list, list]]:
    """Steps (or calls, for rk45) and errors on each schedule."""
    out = {}
    for name, (schedule, start, end) in RANGES.items():
        denoiser = GaussianDenoiser(schedule, MEAN, STD)
        if path.stem == "rk45":
            pairs = [adaptive(denoiser, start, end, 10.0**-k) for k in range(2, 9)]
            out[name] = ([calls for calls, _ in pairs], [error for _, error in pairs])
            continue
        noisy = count(build(path, steps=20)[0])[1] > 0
        settings: dict[str, Any] = {"intervals": []} if path.stem == "restart" else {}
        even = (noisy and not settings) or path.stem in EVEN
        # calls that 3 divides, for the sampler whose orders they decide
        steps = [n - n % 3 for n in STEPS] if path.stem == "dpm_solver_fast" else STEPS
        errors = []
        for calls in steps:
            sampler = build(path, steps=calls, **settings)[0]
            ends = schedule.level(start), schedule.level(end)
            n = len(sampler.orders(*ends)) if isinstance(sampler, DPMSolverFastSampler) else calls
            u = [1 - i / n for i in range(n + 1)]
            times = [end + (start - end) * (v if even else 1 - (1 - v) ** 2) for v in u]
            errors.append(error_of(sampler, denoiser, times))
        out[name] = (steps, errors)
    return out


def error_of(sampler: Sampler, denoiser: GaussianDenoiser, times: Sequence[float]) -> float:
    """Of mean and standard deviation; rows: the mean, the starting noise, and each later draw."""
    first, last = denoiser.schedule.level(times[0]), denoiser.schedule.level(times[-1])
    x = (first.alpha * denoiser.mean).expand(3 * len(times), -1).clone()
    x[1] += (first.alpha**2 * denoiser.std**2 + first.sigma**2).sqrt()
    draws = iter(range(2, len(x)))

    def randn_like(x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        z[next(draws)] = 1
        return z

    denoise, state = Denoise(denoiser, Cond(), denoiser.schedule), None
    if isinstance(sampler, DPMSolverFastSampler):
        state = sampler.orders(first, last)
    for s, t in pairwise(map(denoiser.schedule.level, times)):
        x, state = sampler.step(denoise, x, s, t, state, randn_like)
    mean, std = last.alpha * denoiser.mean, (last.alpha**2 * denoiser.std**2 + last.sigma**2).sqrt()
    return float(torch.cat((x[0] - mean, (x - x[0]).square().sum(0).sqrt() - std)).norm())


def adaptive(denoiser: GaussianDenoiser, start: float, end: float, tolerance: float) -> tuple[int, float]:
    calls, schedule = 0, denoiser.schedule

    class Counted:
        def __call__(self, x: Tensor, t: float, cond: Cond) -> Prediction:
            nonlocal calls
            calls += 1
            return denoiser(x, t, cond)

    denoise = Denoise(Counted(), Cond(), schedule)  # type: ignore[arg-type]
    x = torch.tensor([[1.0, -2.0], [0.3, 0.7]], dtype=torch.float64)
    sampler = RK45Sampler(1, rtol=tolerance, atol=tolerance)
    got, _ = sampler.step(denoise, x, schedule.level(start), schedule.level(end), None, torch.randn_like)
    return calls, float((got - denoiser.transport(x, start, end)).norm())


def order(steps: Sequence[float], errors: Sequence[float]) -> float:
    """Of the last halving of the step."""
    return math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])


def draw(curves: dict[str, dict[str, tuple[list, list]]], orders: dict[str, int]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = 5
    height = math.ceil(len(curves) / columns)
    figure, axes = plt.subplots(height, columns, figsize=(2.3 * columns, 2 * height), layout="constrained")
    for ax in axes.flat[len(curves) :]:
        ax.axis("off")
    for ax, (name, lines) in zip(axes.flat, curves.items(), strict=False):
        for schedule, (steps, errors) in lines.items():
            ax.loglog(steps, errors, ".-", label=schedule, linewidth=1, markersize=4)
        if name != "rk45":
            steps, errors = next(iter(lines.values()))
            ax.loglog(steps, [errors[-1] * (steps[-1] / n) ** orders[name] for n in steps], color="0.7", zorder=0)
        ax.set_title(name, fontsize=9)
        ax.tick_params(labelsize=7)
        ax.minorticks_off()
    axes.flat[0].legend(fontsize=7)
    (ROOT / "docs" / "img").mkdir(exist_ok=True)
    figure.savefig(ROOT / "docs" / "img" / "samplers.png", dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    main()
