r"""Estimates a model's statistics for DPM-Solver-v3 (Zheng et al. 2023, section 3 and appendix).

Samples of x at each log-SNR are data and noise, the same ones at all: what is estimated then is smooth in lam, and l
can be differentiated. With n = sigma / alpha, p = n eps and d = x_0 as the model predicts them,

    f = (1 - l) p - l d,        df/dlam = n (deps/dlam - eps) - l' (p + d) + l p

along the ODE, so that means and covariances of p, d and n (deps/dlam - eps) are all that is needed of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffusion.sampler.exponential.model_statistics import ModelStatistics
from diffusion.schedule.base import Level, Schedule
from diffusion.types import Cond, Denoiser, combine

Draw = tuple[Tensor, Tensor, Tensor, Cond]
"""x_0, noise and probe (B, ...) and the condition of B samples; a probe's elements are -1 or 1."""
STEP = 0.01
"""In lam, to each side: deps/dlam along the ODE is a central difference, its error of second order in this."""
FLAT = 1e-10
"""Share of p^2 and d^2 below which the variance of f is rounding: f does not depend on x, and s is 0."""


def grid(schedule: Schedule, count: int, noise_min: float = 0.002, noise_max: float = 80.0) -> list[float]:
    """``count`` log-SNRs lam, evenly spaced and increasing, between these sigma / alpha where the schedule has them.

    Raises:
        ValueError: fewer than 2, or ends of which the schedule has nothing.
    """
    first = schedule.level(1 / schedule.steps if schedule.steps else 1e-12).noise
    low, high = max(noise_min, first), min(noise_max, schedule.level(1.0).noise)
    if count < 2 or not 0 < low < high:
        raise ValueError(
            f"statistics are measured at 2 levels or more, with 0 < noise_min < noise_max in sigma/alpha, got {count} "
            f"between {low:.3g} and {high:.3g}"
        )
    start, end = STEP - math.log(high), -math.log(low) - STEP
    return [start + (end - start) * i / (count - 1) for i in range(count)]


@torch.no_grad()
def estimate_statistics(
    denoiser: Denoiser,
    draws: Sequence[Draw],
    lams: Sequence[float],
    about: Mapping[str, Any] | None = None,
    on_level: Callable[[int], None] = lambda i: None,
) -> ModelStatistics:
    """The statistics of a model at the log-SNRs ``lams``, increasing and evenly spaced, over all samples of ``draws``.

    Each sample costs a call with its gradient and two calls more at each level: the probe meets the Jacobian from the
    left, where it finds the same diagonal as from the right. ``on_level`` is called after each.
    """
    schedule = denoiser.schedule
    slopes, moments, levels = [], [], []
    for i, at in enumerate(lams):
        before, level, after = (schedule.level(schedule.time(math.exp(-v))) for v in (at - STEP, at, at + STEP))
        diagonal, mean, second = _sums(denoiser, draws, before, level, after)
        slopes.append(diagonal)
        moments.append((mean, second))
        levels.append(level)
        on_level(i)
    lam = torch.tensor(lams, dtype=torch.float64)
    slope = torch.stack(slopes)
    change = torch.gradient(slope, spacing=(lam,), dim=0)[0]
    lines = [_line(slope[i], change[i], mean, second) for i, (mean, second) in enumerate(moments)]
    s, b = (torch.stack([line[k] for line in lines]) for k in (0, 1))
    alpha = torch.tensor([level.alpha for level in levels], dtype=torch.float64)
    return ModelStatistics(lam, alpha, slope, s, b, about or {})


def _sums(
    denoiser: Denoiser, draws: Sequence[Draw], before: Level, level: Level, after: Level
) -> tuple[Tensor, Tensor, Tensor]:
    """l, and means (3, ...) and second moments (3, 3, ...) of p, d and n (deps/dlam - eps), float64 on the CPU."""
    shape, count = draws[0][0].shape[1:], sum(len(x0) for x0, *_ in draws)
    diagonal, mean, second = (torch.zeros(*lead, *shape, dtype=torch.float64) for lead in ((), (3,), (3, 3)))
    for x0, noise, probe, cond in draws:
        x = combine(level.alpha, x0, level.sigma, noise)
        with torch.enable_grad():
            prediction = denoiser(x.requires_grad_(), level.t, cond)
            (moved,) = torch.autograd.grad(prediction.eps, x, probe)
        eps, d = prediction.eps.detach(), prediction.x0.detach()
        ways = [denoiser(combine(s.alpha, d, s.sigma, eps), s.t, cond).eps.double() for s in (before, after)]
        p, r = level.noise * eps.double(), level.noise * ((ways[1] - ways[0]) / (after.lam - before.lam) - eps.double())
        found = torch.stack((p, d.double(), r))
        diagonal += level.sigma / count * (probe * moved).double().sum(0).cpu()
        mean += found.sum(1).cpu() / count
        second += torch.einsum("ib...,jb...->ij...", found, found).cpu() / count
    return diagonal, mean, second


def _line(l: Tensor, dl: Tensor, mean: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
    """(s, b) of the least-squares line through f and df/dlam."""
    covariance = second - mean[:, None] * mean[None]
    f = torch.stack((1 - l, -l, torch.zeros_like(l)))
    df = torch.stack((l - dl, -dl, torch.ones_like(l)))
    spread = torch.einsum("i...,ij...,j...->...", f, covariance, f)
    shared = torch.einsum("i...,ij...,j...->...", f, covariance, df)
    s = torch.where(spread > FLAT * (second[0, 0] + second[1, 1]), shared / spread, 0.0)
    return s, (df * mean).sum(0) - s * (f * mean).sum(0)
