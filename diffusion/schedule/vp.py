"""The variance-preserving SDE in continuous time."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.schedule.base import VariancePreservingSchedule, check_rate


class VPSchedule(VariancePreservingSchedule):
    """beta(t) = beta_min + t (beta_max - beta_min), log alpha = -1/2 integral of beta (Song et al. 2021, eqs. 32-33).

    DDPM's linear table is its discretisation with beta_i = beta(i / T) / T. c_noise = 999 t (their code), the
    range of that table's indices.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        check_rate(beta_min, beta_max)
        self.beta_min = beta_min
        self.beta_max = beta_max

    def log_alpha(self, t: Tensor) -> Tensor:
        t = t.double()
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def c_noise(self, t: Tensor) -> Tensor:
        return 999 * t

    def time(self, noise: float) -> float:
        if not noise > 0:
            return 0.0
        if noise == math.inf:
            return 1.0
        slope, area = self.beta_max - self.beta_min, math.log1p(noise**2)  # area = integral of beta up to t
        t = 2 * area / (self.beta_min + math.sqrt(self.beta_min**2 + 2 * slope * area))
        return min(t, 1.0)
