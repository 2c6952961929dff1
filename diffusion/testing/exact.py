"""Truth for samplers: three schedules without singular ends, and the exact moments of a sampler on a Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.base import Sampler
from diffusion.schedule.base import Level, Schedule
from diffusion.types import Spacing


class Path(Schedule):
    """A part of a known schedule, from noise level to noise level, as one of its own.

    Args:
        kind: ``vp`` is beta(t) = 0.1 + 19.9 t (Song et al. 2021, appendix C), ``flow`` alpha = 1 - t and sigma = t,
            ``exploding`` alpha = 1 and sigma = 80 t^3, EDM's coordinate.
        start, end: its times that become 0 and 1.
        warp: s = 1 - (1 - t)^warp bends time without moving the ends: above 1, steps at the noisy end are smaller.
    """

    def __init__(self, kind: str, start: float, end: float, warp: float = 1.0) -> None:
        self.kind, self.start, self.end, self.warp = kind, start, end, warp

    def alpha(self, t: Tensor) -> Tensor:
        s = self._inner(t.double())
        if self.kind == "vp":
            return torch.exp(-0.5 * (0.1 * s + 9.95 * s**2))
        return 1 - s if self.kind == "flow" else torch.ones_like(s)

    def sigma(self, t: Tensor) -> Tensor:
        s = self._inner(t.double())
        if self.kind == "vp":
            return torch.sqrt(-torch.expm1(-(0.1 * s + 9.95 * s**2)))
        return s if self.kind == "flow" else 80 * s**3

    def level(self, t: float) -> Level:
        s = self.start + (self.end - self.start) * (1 - (1 - t) ** self.warp)
        if self.kind == "vp":
            log_alpha = -0.5 * (0.1 * s + 9.95 * s**2)
            return Level(t, math.exp(log_alpha), math.sqrt(-math.expm1(2 * log_alpha)))
        return Level(t, 1 - s, s) if self.kind == "flow" else Level(t, 1.0, 80 * s**3)

    def time(self, noise: float) -> float:
        if self.kind == "vp":
            s = (math.sqrt(0.01 + 39.8 * math.log1p(noise**2)) - 0.1) / 19.9
        else:
            s = noise / (1 + noise) if self.kind == "flow" else (noise / 80) ** (1 / 3)
        bent = min(max((s - self.start) / (self.end - self.start), 0.0), 1.0)
        return float(1 - (1 - bent) ** (1 / self.warp))

    def prior_std(self, start: Level) -> float:
        return 1.0 if self.kind == "vp" else start.sigma

    def _inner(self, t: Tensor) -> Tensor:
        return self.start + (self.end - self.start) * (1 - (1 - t) ** self.warp)


def paths(warp: float = 1.0) -> dict[str, Path]:
    """The three schedules by name."""
    ends = {"vp": (0.1, 0.8), "flow": (0.1, 0.9), "exploding": (0.15, 0.5)}
    return {kind: Path(kind, start, end, warp) for kind, (start, end) in ends.items()}


class EvenSpacing(Spacing):
    """Evenly spaced times from 1 to 0: a path has its small steps where its warp says."""

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        return [(steps - i) / steps for i in range(steps + 1)]


class OneHot:
    """A source of noise that gives call k's draw to row k alone, for samplers that are affine in all their noise.

    Row 0 then is the mean of the samples, and the squared distances of the other rows from it add up to the variance:
    both exactly, with no Monte Carlo error. Row 1 carries the starting noise.

    Raises:
        AssertionError: more draws than there are rows.
    """

    def __init__(self) -> None:
        self.calls = 1

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls >= len(x):
            raise AssertionError(f"{len(x)} rows are too few for this many draws")
        z = torch.zeros_like(x)
        z[self.calls] = 1
        return z


def moments(sampler: Sampler, denoiser: GaussianDenoiser, draws: int) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation (D,) of what a sampler gives that starts from the true marginal.

    draws: at least how often it asks for noise.
    """
    schedule = denoiser.schedule
    start = sampler.levels(schedule)[0]
    noise = (start.alpha * denoiser.mean).expand(draws + 2, -1).clone()
    noise[1] += (start.alpha**2 * denoiser.std**2 + start.sigma**2).sqrt()
    out = sampler(denoiser, noise / schedule.prior_std(start), randn_like=OneHot())
    return out[0], (out - out[0]).square().sum(0).sqrt()


def slope(steps: list[int], errors: list[float]) -> float:
    """Measured order of convergence: minus the slope of log error over log steps."""
    u, v = torch.tensor(steps, dtype=torch.float64).log(), torch.tensor(errors, dtype=torch.float64).log()
    return -float(((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum())
