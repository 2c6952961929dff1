"""Heun's step."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.objective.solve.base import Solve
from diffusion.types import Cond, Denoiser, expand, scale


class HeunSolve(Solve):
    """The trapezoidal rule on dy/dn = E[eps | x] (Karras et al. 2022, algorithm 1). From alpha = 0 or to sigma = 0,
    where n or E[eps | x] has no value, Euler's step. Two calls."""

    def __call__(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        schedule = denoiser.schedule
        first = denoiser(x, t, cond)
        euler = first.at(schedule, s)
        alpha, sigma = schedule.coefficients(s.to(x.device))
        before, noise = schedule.coefficients(t.to(x.device))
        ends = (before == 0) | (sigma == 0)
        inside = torch.where(ends.to(s.device), t, s)  # a time where the second call has a value, which is not used
        second = denoiser(euler, inside, cond)
        half = 0.5 * torch.where(ends, 0.0, sigma - alpha * noise / torch.where(ends, 1.0, before))
        return torch.where(expand(ends, x), euler, euler + scale(half, second.eps - first.eps))
