"""python -m benchmarks.restoration_peers run=<run> [data=<folder>] [images=64] [steps=50] [tasks=[box]] [methods=[dps]]

Posterior samplers beside the same methods of azula: one trained network of pixels with its predictions clipped, the
same held-out images, measurements with noise 0.05, first noise and times, so that both make ``steps`` calls an image.
For each task and method: PSNR and NMSE of the images in [0, 1] (means over images, of restorations clipped to that
range) and processor seconds an image, ours and azula's.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from azula.denoise import Denoiser as PeerDenoiser
from azula.denoise import DiracPosterior
from azula.guidance import DiffPIRDenoiser, DPSSampler, MMPSDenoiser, PGDMSampler, TMPDenoiser
from azula.linalg.covariance import IsotropicCovariance
from azula.noise import Schedule as PeerSchedule
from azula.sample import DDIMSampler as PeerDDIM
from omegaconf import OmegaConf
from torch import Tensor

import diffusion
from diffusion.evaluation.restoration import UNIT, scores, together
from diffusion.experiment.build.build import build_data
from diffusion.experiment.run.saved_config import read_resolved
from diffusion.guidance import (
    ClipGuidance,
    DiffPIRGuidance,
    DPSGuidance,
    MMPSGuidance,
    PiGDMGuidance,
    TMPDGuidance,
)
from diffusion.guidance.ddrm import SMALLEST
from diffusion.operator import BlurOperator, DownsampleOperator, MaskOperator, Operator
from diffusion.randomness import MEASUREMENT, SAMPLING, KeyedRandomness
from diffusion.sampler import AncestralSampler, DDIMSampler
from diffusion.types import Cond, Denoiser

NOISE = 0.05
TASKS: dict[str, Operator] = {
    "box": MaskOperator(box=[8, 8, 12, 12]),
    "x4": DownsampleOperator(4),
    "blur": BlurOperator(1.5),
}


@dataclass
class Settings:
    """Command line: run, the folder of the data (the run's own where ``None``), images, calls an image, and which."""

    run: str = "???"
    data: str | None = None
    images: int = 64
    steps: int = 50
    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    methods: list[str] = field(default_factory=lambda: list(METHODS))


@dataclass(frozen=True)
class Problem:
    """What is restored: A, y (B, c, h, w), the standard normal noise (B, C, H, W) and the number of steps."""

    operator: Operator
    y: Tensor
    noise: Tensor
    steps: int


class Flattened(PeerDenoiser):
    """Our denoiser as azula's, of images as rows (B, C H W), as its solvers take them."""

    def __init__(self, inner: Denoiser, shape: Sequence[int], cond: Cond) -> None:
        super().__init__()
        self.inner, self.shape, self.cond = inner, tuple(shape), cond
        self.schedule = _Schedule(inner)

    def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> DiracPosterior:
        return DiracPosterior(mean=self.inner(x_t.reshape(-1, *self.shape), float(t), self.cond).x0.flatten(1))


class _Schedule(PeerSchedule):
    def __init__(self, inner: Denoiser) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner.schedule.alpha(t), self.inner.schedule.sigma(t)


class Rows:
    """What azula is told of a problem: A of rows (B, C H W), and y as rows."""

    def __init__(self, problem: Problem) -> None:
        self.operator, self.shape = problem.operator, tuple(problem.noise.shape[1:])
        self.y = problem.y.flatten(1)

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator(x.reshape(-1, *self.shape)).flatten(1)

    def inverse(self, y: Tensor) -> Tensor:
        """A^+ y, singular values below 10^-4 taken for 0."""
        measured = self.operator(torch.zeros(1, *self.shape)).shape[1:]
        back = self.operator.adjoint(y.reshape(-1, *measured), (len(y), *self.shape))
        return self.operator.spectral(
            lambda s: torch.where(s < SMALLEST, 0.0, 1 / s.clamp_min(SMALLEST) ** 2), back
        ).flatten(1)


Ours = Callable[[Denoiser, Problem, Cond], Tensor]
Theirs = Callable[[PeerDenoiser, Problem], Tensor]


def ours(kind: Any, sampler: Any = DDIMSampler, **settings: Any) -> Ours:
    def restored(denoiser: Denoiser, problem: Problem, cond: Cond) -> Tensor:
        guided = kind(denoiser, problem.operator, problem.y, simulate=False, **settings)
        return sampler(problem.steps)(guided, problem.noise, cond)

    return restored


def theirs(make: Callable[[PeerDenoiser, Rows], Any]) -> Theirs:
    """A denoiser of azula's in DDIM steps, or a sampler of its own, that takes ``steps``."""

    def restored(denoiser: PeerDenoiser, problem: Problem) -> Tensor:
        made, times = make(denoiser, Rows(problem)), {"steps": problem.steps, "silent": True, "dtype": torch.float64}
        sampler = PeerDDIM(made, **times) if isinstance(made, PeerDenoiser) else made(**times)
        alpha, sigma = denoiser.schedule(torch.tensor(1.0, dtype=torch.float64))
        return sampler(problem.noise.flatten(1) * math.hypot(alpha, sigma)).reshape(problem.noise.shape)

    return restored


def _summed(denoiser: PeerDenoiser, rows: Rows, zeta: float) -> Any:
    """azula's DPS takes one norm over the batch: told the sum of the images' own, it moves each as if it were alone."""
    return partial(DPSSampler, denoiser, torch.zeros(1), lambda x: (rows.y - rows(x)).norm(dim=1).sum()[None], zeta)


def _mmps(solver: str, iterations: int) -> tuple[Ours, Theirs]:
    def peer(denoiser: PeerDenoiser, rows: Rows) -> MMPSDenoiser:
        return MMPSDenoiser(denoiser, rows.y, rows, IsotropicCovariance(NOISE**2), solver, iterations)

    return ours(MMPSGuidance, noise=NOISE, iterations=iterations, solver=solver), theirs(peer)


def _diffpir(sigma_data: float | None) -> tuple[Ours, Theirs]:
    """azula's knows no spread of the data."""
    peer = theirs(lambda d, rows: DiffPIRDenoiser(d, rows.y, rows, NOISE**2, 1.0, "cg", 20))
    return ours(DiffPIRGuidance, noise=NOISE, weight=1.0, zeta=0.0, sigma_data=sigma_data), peer


METHODS: dict[str, tuple[Ours, Theirs]] = {
    "dps": (
        ours(DPSGuidance, AncestralSampler, scale=3.0),
        theirs(lambda d, rows: _summed(d, rows, 3.0)),
    ),
    "pigdm": (
        ours(PiGDMGuidance, noise=NOISE, adaptive=True),
        theirs(lambda d, rows: partial(PGDMSampler, d, rows.y, rows, rows.inverse)),
    ),
    **{f"mmps_{solver}_{iterations}": _mmps(solver, iterations) for solver in ("gmres", "cg") for iterations in (1, 3)},
    "tmpd": (
        ours(TMPDGuidance, noise=NOISE),
        theirs(lambda d, rows: TMPDenoiser(d, rows.y, rows, NOISE**2)),
    ),
    "diffpir": _diffpir(1.0),
    "diffpir_without_sigma_data": _diffpir(None),
}


def score(restored: Tensor, truth: Tensor) -> tuple[float, float]:
    """(PSNR, NMSE), means over images (B, C, H, W) in [-1, 1]; both NaN where a value is."""
    if not restored.isfinite().all():
        return math.nan, math.nan
    pairs = zip((restored.clamp(-1, 1) + 1) / 2, (truth + 1) / 2, strict=True)
    found = together([scores(made[None], image, UNIT) for made, image in pairs])
    return found["psnr"], found["nmse"]


@dataclass(frozen=True)
class HeldOut:
    """A model, the first held-out images (B, C, H, W) of its run, their numbers, and the null condition of as many
    samples as its key."""

    model: Any
    truth: Tensor
    index: Tensor
    conds: dict[int, Cond]

    def problem(self, task: str, steps: int) -> Problem:
        """The same noise for every method."""
        operator = TASKS[task]
        clean = operator(self.truth)
        y = clean + NOISE * KeyedRandomness(self.index, seed=0, stream=MEASUREMENT).randn_like(clean)
        return Problem(operator, y, KeyedRandomness(self.index, seed=0, stream=SAMPLING).randn_like(self.truth), steps)


def parsed(kind: type[Any], arguments: Sequence[str], methods: Iterable[str]) -> Any:
    """The settings of a command line; leaves with a sentence where a task or a method is none."""
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.from_cli(list(arguments))))
    assert isinstance(settings, kind)
    for name, known in (("tasks", TASKS), ("methods", list(methods))):
        if wrong := sorted(set(getattr(settings, name)) - set(known)):
            sys.exit(f"{name}: there is no {', '.join(wrong)}; there are {', '.join(known)}")
    return settings


def held_out(settings: Any) -> HeldOut:
    """Of the run and the data that settings name."""
    config = read_resolved(Path(settings.run))
    config.data.root = settings.data or config.data.root
    split, model = build_data(config).split("test"), diffusion.load(settings.run)
    batch = split.batch(torch.arange(settings.images))
    conds = {count: model.conditioner(split.batch(torch.arange(count))).drop() for count in {1, settings.images}}
    return HeldOut(model, batch["image"], batch["index"], conds)


def main(arguments: Sequence[str]) -> None:
    settings = parsed(Settings, arguments, METHODS)
    given = held_out(settings)
    truth, cond, denoiser = given.truth, given.conds[settings.images], ClipGuidance(given.model.denoiser)
    print("| task | method | PSNR, ours | azula's | NMSE, ours | azula's | s an image, ours | azula's |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for task in settings.tasks:
        problem = given.problem(task, settings.steps)
        for name in settings.methods:
            own, peer = METHODS[name]
            sides = []
            runs: list[Callable[[], Tensor]] = [
                partial(own, denoiser, problem, cond),
                partial(peer, Flattened(denoiser, truth.shape[1:], cond), problem),
            ]
            for run in runs:
                torch.manual_seed(0)
                began = time.process_time()
                restored = run()
                sides.append((*score(restored, truth), (time.process_time() - began) / len(truth)))
            numbers = [f"{sides[who][what]:.4g}" for what in range(3) for who in range(2)]
            print(f"| {task} | {name} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
