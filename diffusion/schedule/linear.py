"""DDPM's table: betas evenly spaced."""

from __future__ import annotations

import torch

from diffusion.schedule.base import DiscreteSchedule, check_range


class LinearSchedule(DiscreteSchedule):
    """beta_i from ``beta_start`` to ``beta_end`` in T even steps (Ho et al. 2020, section 4).

    For another T, Nichol & Dhariwal (2021) scale both ends by 1000 / T, which keeps the same path through noise.
    """

    def __init__(self, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        check_range(T, beta_start, beta_end)
        self.T, self.beta_start, self.beta_end = T, beta_start, beta_end
        super().__init__(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))
