"""Stable Diffusion's table: square roots of the betas evenly spaced."""

from __future__ import annotations

import torch

from diffusion.schedule.base import DiscreteSchedule, check_range


class ScaledLinearSchedule(DiscreteSchedule):
    """sqrt(beta_i) from sqrt(``beta_start``) to sqrt(``beta_end``) in T even steps (Rombach et al. 2022)."""

    def __init__(self, T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> None:
        check_range(T, beta_start, beta_end)
        self.T, self.beta_start, self.beta_end = T, beta_start, beta_end
        super().__init__(torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64) ** 2)
