"""A table whose betas rise along a logistic curve."""

from __future__ import annotations

import torch

from diffusion.schedule.base import DiscreteSchedule, check_range


class SigmoidSchedule(DiscreteSchedule):
    """beta_i = beta_start + (beta_end - beta_start) logistic(u_i), u_i from -6 to 6 (Xu et al. 2022, their code)."""

    def __init__(self, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        check_range(T, beta_start, beta_end)
        self.T, self.beta_start, self.beta_end = T, beta_start, beta_end
        rise = torch.linspace(-6, 6, T, dtype=torch.float64).sigmoid()
        super().__init__(beta_start + (beta_end - beta_start) * rise)
