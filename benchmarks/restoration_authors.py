"""python -m benchmarks.restoration_authors run=<run> code=<folder> [data=<folder>] [images=16] [tasks=[]] [methods=[]]

Posterior samplers beside their authors' own code: one trained network of pixels with its predictions clipped, the same
held-out images, measurements with noise 0.05 and as many network calls; the fresh noise differs. ``code`` holds the
authors' repositories, each in a folder of its own name, at the commits of ``REPOSITORIES``. That of DAPS needs
torchdiffeq; opencv and scikit-image, which others import, are not called.

For each task and method: PSNR of the images in [0, 1] (means over images, of restorations clipped to that range), the
mean and standard error of our PSNR minus theirs over images, NMSE, and processor seconds an image.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.authors_code import Peer, daps, ddnm, ddrm, dps, psld, resample
from benchmarks.restoration_peers import NOISE, TASKS, Ours, Problem, held_out, ours, parsed
from diffusion.evaluation.restoration import UNIT, scores
from diffusion.guidance import (
    ClipGuidance,
    DAPSGuidance,
    DDNMGuidance,
    DDNMPlusGuidance,
    DDRMGuidance,
    DPSGuidance,
    MCGGuidance,
    PSLDGuidance,
    ReSampleGuidance,
)
from diffusion.operator import MaskOperator
from diffusion.sampler import AncestralSampler, DDIMSampler
from diffusion.spacing import KarrasSpacing
from diffusion.types import Cond, Denoiser

REPOSITORIES = {
    "ddrm": "github.com/bahjat-kawar/ddrm at 32b6b3c",
    "DDNM": "github.com/wyhuai/DDNM at 00b58ea",
    "DAPS": "github.com/zhangbingliang2019/DAPS at 098df6b",
    "diffusion-posterior-sampling": "github.com/DPS2022/diffusion-posterior-sampling at effbde7",
    "PSLD": "github.com/LituRout/PSLD at d734647",
    "resample": "github.com/soominkwon/resample at 3e332b2",
}


@dataclass
class Settings:
    """Command line: run, the authors' code, the folder of the data (the run's own where ``None``), and what to run."""

    run: str = "???"
    code: str = "???"
    data: str | None = None
    images: int = 16
    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    methods: list[str] = field(default_factory=lambda: list(METHODS))


def _annealed(steps: int) -> DDIMSampler:
    """The levels of DAPS, whose code spaces one more and leaves it out."""
    high, low = 100 ** (1 / 7), 0.1 ** (1 / 7)
    return DDIMSampler(
        steps, KarrasSpacing(noise_min=(high + (low - high) * (steps - 1) / steps) ** 7, noise_max=100.0)
    )


def _daps(denoiser: Denoiser, problem: Problem, cond: Cond, ode_steps: int) -> Tensor:
    """With the code's rates."""
    rate = 5e-5 if isinstance(problem.operator, MaskOperator) else 1e-4
    settings = {"noise": NOISE, "ode_steps": ode_steps, "langevin_rate": rate}
    return ours(DAPSGuidance, _annealed, **settings)(denoiser, problem, cond)


Theirs = Callable[[Peer], Tensor]

METHODS: dict[str, tuple[int, Ours, Theirs]] = {
    "ddrm": (20, ours(DDRMGuidance, noise=NOISE), ddrm),
    "ddnm": (50, ours(DDNMGuidance, AncestralSampler), partial(ddnm, plus=False)),
    "ddnm_plus": (50, ours(DDNMPlusGuidance, noise=NOISE), partial(ddnm, plus=True)),
    "dps": (50, ours(DPSGuidance, AncestralSampler, scale=3.0), partial(dps, method="ps", scale=3.0)),
    "mcg": (50, ours(MCGGuidance, AncestralSampler, scale=3.0), partial(dps, method="mcg", scale=3.0)),
    "daps_ode1": (50, partial(_daps, ode_steps=1), partial(daps, ode_steps=1)),
    "daps_ode5": (10, partial(_daps, ode_steps=5), partial(daps, ode_steps=5)),
    "psld": (50, ours(PSLDGuidance, scale=1.0, gluing=0.1), partial(psld, omega=1.0, gamma=0.1)),
    "resample": (50, ours(ReSampleGuidance, noise=NOISE), resample),
}
"""Steps, ours and theirs."""
EXACT = ("ddnm", "mcg")
"""Those that undo A exactly, which a blur does not allow."""


class Counted:
    """A denoiser that counts its calls of an image."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner, self.schedule, self.images = inner, inner.schedule, 0

    def __call__(self, x: Tensor, t: Any, cond: Cond) -> Any:
        self.images += len(x)
        return self.inner(x, t, cond)


def each(restored: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """PSNR and NMSE of every image, (B,)."""
    pairs = zip((restored.float().clamp(-1, 1) + 1) / 2, (truth + 1) / 2, strict=True)
    found = [scores(made[None], image, UNIT) for made, image in pairs]
    return {name: torch.tensor([float(row[name]) for row in found]) for name in ("psnr", "nmse")}


def main(arguments: Sequence[str]) -> None:
    settings = parsed(Settings, arguments, METHODS)
    given = held_out(settings)
    truth = given.truth
    print(
        "| task | method | calls | PSNR, ours | theirs | difference | NMSE, ours | theirs | s an image, ours | theirs |"
    )
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for task in settings.tasks:
        for name in settings.methods:
            if task == "blur" and name in EXACT:
                continue
            steps, own, peer = METHODS[name]
            problem = given.problem(task, steps)
            found, seconds, counts = [], [], []
            denoisers = [Counted(ClipGuidance(given.model.denoiser)) for _ in range(2)]
            runs: list[Callable[[], Tensor]] = [
                partial(own, denoisers[0], problem, given.conds[len(truth)]),
                partial(peer, Peer(denoisers[1], problem, given.conds, Path(settings.code))),
            ]
            for run, denoiser in zip(runs, denoisers, strict=True):
                torch.manual_seed(0)
                began = time.process_time()
                restored = run().detach()
                seconds.append((time.process_time() - began) / len(truth))
                found.append(each(restored, truth))
                counts.append(denoiser.images / len(truth))
            apart = found[0]["psnr"] - found[1]["psnr"]
            spread = f"{apart.mean():+.2f} ± {apart.std() / math.sqrt(len(apart)):.2f}"
            numbers = [f"{side['psnr'].mean():.2f}" for side in found] + [spread]
            numbers += [f"{side['nmse'].mean():.3f}" for side in found] + [f"{value:.2f}" for value in seconds]
            count = " / ".join(f"{value:g}" for value in counts)
            print(f"| {task} | `{name}` | {count} | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
