"""Improved DDPM's table: alpha-bar along a squared cosine."""

from __future__ import annotations

import math

import torch

from diffusion.schedule.base import DiscreteSchedule, check_range


class CosineSchedule(DiscreteSchedule):
    """alpha-bar(t) = f(t) / f(0), f(t) = cos^2((t + s) / (1 + s) pi / 2) (Nichol & Dhariwal 2021, eq. 17).

    s: offset that keeps the first betas away from 0.
    beta_max: betas are cut there, which keeps alpha above 0 at t = 1.
    """

    def __init__(self, T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> None:
        check_range(T)
        if s < 0 or not 0 < beta_max <= 1:
            raise ValueError(f"a cosine schedule takes s >= 0 and beta_max in (0, 1], got s={s}, beta_max={beta_max}")
        self.T, self.s, self.beta_max = T, s, beta_max
        u = torch.arange(T + 1, dtype=torch.float64) / T
        f = ((u + s) / (1 + s) * (math.pi / 2)).cos() ** 2
        super().__init__((1 - f[1:] / f[:-1]).clamp(max=beta_max))
