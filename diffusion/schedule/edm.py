"""EDM: no scaling, noise levels denser near the data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.schedule.base import FIRST, Schedule, check_noise


class EDMSchedule(Schedule):
    """alpha = 1, sigma^(1/rho) linear in t from sigma_min to sigma_max, and 0 at t = 0 (Karras et al. 2022, eq. 5).

    c_noise = log(sigma) / 4 (table 1). ``spacing=karras`` gives the paper's steps exactly.

    rho: 7 in the paper; larger is denser near the data.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        check_noise(sigma_min, sigma_max)
        if not 0 < rho < math.inf:
            raise ValueError(f"rho is above 0, got {rho}; set schedule.rho")
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.rho = rho
        self._low, self._high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        t = t.double()
        return torch.where(t > 0, (self._low + t * (self._high - self._low)) ** self.rho, 0.0)

    def c_noise(self, t: Tensor) -> Tensor:
        return self.sigma(t.clamp(min=FIRST)).log() / 4

    def time(self, noise: float) -> float:
        if noise <= 0:
            return 0.0
        t = (noise ** (1 / self.rho) - self._low) / (self._high - self._low)
        return min(max(t, FIRST), 1.0)
