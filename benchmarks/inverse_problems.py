"""python -m benchmarks.inverse_problems [operator ...]: posterior samplers beside the posterior of a Gaussian, known.

4 x 4 pixels of mean 0 and covariance exp(-distance / 2), the exact denoiser, DDPM's linear table of 1000 levels; one
measurement of one image. For each operator, noise and method: the distance of the samples' mean from the true one (root
mean square over pixels, whose prior variance is 1), the trace of their covariance over the true one's, and the 2-norm
Wasserstein distance of the two Gaussians a pixel, sqrt((|m - m^|^2 + tr(C + C^ - 2 (C^1/2 C^ C^1/2)^1/2)) / 16).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusion.guidance import (
    DAPSGuidance,
    DDNMPlusGuidance,
    DDRMGuidance,
    DiffPIRGuidance,
    DPSGuidance,
    MMPSGuidance,
    PiGDMGuidance,
    TMPDGuidance,
    TwistedGuidance,
)
from diffusion.operator import BlurOperator, DownsampleOperator, MaskOperator, Operator
from diffusion.sampler import AncestralSampler, DDIMSampler
from diffusion.schedule.base import Schedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.types import Cond, Prediction, RandnLike

SIDE, COUNT = 4, 4000
PIXELS = SIDE * SIDE
OPERATORS = {"box": MaskOperator(box=[1, 1, 2, 2]), "x2": DownsampleOperator(2), "blur": BlurOperator(0.7)}
METHODS: dict[str, tuple[Any, Any, str]] = {
    "mmps, 16 iterations": (partial(MMPSGuidance, iterations=16), DDIMSampler(100), "DDIM 100"),
    "mmps, 1 iteration": (MMPSGuidance, DDIMSampler(100), "DDIM 100"),
    "tmpd": (TMPDGuidance, DDIMSampler(100), "DDIM 100"),
    "pigdm": (PiGDMGuidance, DDIMSampler(100), "DDIM 100"),
    "dps, scale 1": (
        lambda *given, noise, **more: DPSGuidance(*given, **more),
        AncestralSampler(1000),
        "ancestral 1000",
    ),
    "diffpir, zeta 0.1": (DiffPIRGuidance, DDIMSampler(100), "100 levels"),
    "diffpir, zeta 1": (partial(DiffPIRGuidance, zeta=1.0), DDIMSampler(100), "100 levels"),
    "ddnm_plus, ancestral": (partial(DDNMPlusGuidance, eta=None), DDIMSampler(100), "100 levels"),
    "ddrm": (DDRMGuidance, DDIMSampler(20), "20 levels"),
    "daps, exact, ode_steps 1": (partial(DAPSGuidance, exact=True, ode_steps=1), DDIMSampler(100), "100 levels"),
    "daps, exact, ode_steps 5": (partial(DAPSGuidance, exact=True), DDIMSampler(100), "100 levels"),
    "twisted, 16 particles": (partial(TwistedGuidance, particles=16), DDIMSampler(100), "100 levels"),
    "twisted, 128 particles": (partial(TwistedGuidance, particles=128), DDIMSampler(100), "100 levels"),
}


class Exact:
    """The exact denoiser of N(0, covariance), counting its calls for COUNT samples."""

    def __init__(self, schedule: Schedule, covariance: Tensor) -> None:
        self.schedule, self.calls = schedule, 0
        self.values, self.vectors = torch.linalg.eigh(covariance)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        self.calls += len(x) // COUNT
        level = self.schedule.level(float(t))
        turned = x.flatten(1) @ self.vectors / (level.alpha**2 * self.values + level.sigma**2)
        x0 = level.alpha * (turned * self.values) @ self.vectors.T
        return Prediction(x0.reshape(x.shape), (level.sigma * turned @ self.vectors.T).reshape(x.shape))


def posterior(operator: Operator, y: Tensor, covariance: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Mean (16,) and covariance (16, 16) given y, by dense linear algebra."""
    A = operator(torch.eye(PIXELS, dtype=torch.float64).reshape(PIXELS, 1, SIDE, SIDE)).flatten(1).T
    gain = covariance @ A.T @ torch.linalg.inv(A @ covariance @ A.T + noise**2 * torch.eye(len(A), dtype=torch.float64))
    return gain @ y.flatten(), covariance - gain @ A @ covariance


def root(matrix: Tensor) -> Tensor:
    """The symmetric square root."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def scores(samples: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float, float]:
    """(error of the mean, ratio of traces, Wasserstein distance a pixel) of samples (N, 16)."""
    off = samples.mean(0) - mean
    found, half = torch.cov(samples.T), root(covariance)
    square = off.square().sum() + (covariance + found - 2 * root(half @ found @ half)).trace()
    return (
        float(off.square().mean().sqrt()),
        float(found.trace() / covariance.trace()),
        float((square.clamp_min(0) / PIXELS).sqrt()),
    )


def normal(name: str) -> RandnLike:
    """A source of noise of its own for each name: one method more changes no other's row."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return lambda x: torch.randn(x.shape, dtype=x.dtype, generator=generator)


def main(names: Sequence[str]) -> None:
    place = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE)).double()
    covariance, schedule = torch.exp(-torch.cdist(place, place) / 2), LinearSchedule()
    image = (root(covariance) @ normal("image")(torch.empty(PIXELS).double())).reshape(1, 1, SIDE, SIDE)
    print("| operator | noise | method | levels | calls | mean off by | covariance | distance |")
    print("|---|---|---|---|---|---|---|---|")
    for name, operator in ((name, OPERATORS[name]) for name in names or OPERATORS):
        for noise in (0.05, 0.5):
            clean = operator(image)
            y = clean + noise * normal(f"{name} {noise}")(clean)
            truth = posterior(operator, y, covariance, noise)
            ideal = truth[0] + normal(f"{name} {noise} truth")(torch.empty(COUNT, PIXELS).double()) @ root(truth[1])
            rows = [("(draws of the truth)", "", 0, scores(ideal, *truth))]
            for method, (kind, sampler, levels) in METHODS.items():
                denoiser = Exact(schedule, covariance)
                guided = kind(denoiser, operator, y, simulate=False, noise=noise)
                start, draw = torch.empty(COUNT, 1, SIDE, SIDE).double(), normal(f"{name} {noise} {method}")
                samples = sampler(guided, draw(start), randn_like=draw).flatten(1)
                rows.append((method, levels, denoiser.calls, scores(samples, *truth)))
            for method, levels, calls, (off, ratio, distance) in rows:
                print(
                    f"| {name} | {noise} | {method} | {levels} | {calls} | {off:.3f} | {ratio:.2f} | {distance:.3f} |"
                )


if __name__ == "__main__":
    main(sys.argv[1:])
