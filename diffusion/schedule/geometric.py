"""The variance-exploding process with a geometric sequence of noise levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.schedule.base import FIRST, Schedule, check_noise


class GeometricSchedule(Schedule):
    """alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t for t > 0, and 0 at t = 0 (Song et al. 2021, eq. 31).

    The last step of a sampler thus goes from about ``sigma_min`` to clean data. c_noise = log(sigma) / 4.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        check_noise(sigma_min, sigma_max)
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        t = t.double()
        return torch.where(t > 0, self.sigma_min * (self.sigma_max / self.sigma_min) ** t, 0.0)

    def c_noise(self, t: Tensor) -> Tensor:
        return self.sigma(t.clamp(min=FIRST)).log() / 4

    def time(self, noise: float) -> float:
        if noise <= 0:
            return 0.0
        t = math.log(noise / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        return min(max(t, FIRST), 1.0)
