"""The sub-VP SDE in continuous time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.schedule.vp import VPSchedule


class SubVPSchedule(VPSchedule):
    """VP's alpha with sigma = 1 - alpha^2, less noise than VP at every t (Song et al. 2021, eqs. 29 and 34)."""

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.log_alpha(t))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self.log_alpha(t)
        return log_alpha.exp(), -torch.expm1(2 * log_alpha)

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (self.log_alpha(t) - self.sigma(t).log())

    def time(self, noise: float) -> float:
        if not noise > 0:
            return 0.0
        # noise = (1 - alpha^2) / alpha, so alpha is the positive root of alpha^2 + noise alpha - 1
        alpha = 2 / (noise + math.sqrt(noise**2 + 4))
        return super().time(math.sqrt(-math.expm1(2 * math.log(alpha))) / alpha) if alpha > 0 else 1.0
