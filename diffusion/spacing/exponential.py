"""Polynomials in the logarithm of sigma / alpha."""

from __future__ import annotations

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing, check_ends, from_noises, noise_range


class ExponentialSpacing(Spacing):
    """sigma / alpha = low (high / low)^(u^rho), u evenly from 1 to 0, then 0 (k-diffusion's polyexponential).

    Args:
        rho: 1 is evenly spaced log-SNR; larger is denser near the data.
        noise_min, noise_max: ends in sigma / alpha, narrowed to what the schedule has.
    """

    def __init__(self, rho: float = 1.0, noise_min: float = 0.002, noise_max: float = 80.0) -> None:
        if not rho > 0:
            raise ValueError(f"rho is above 0, got {rho}; set spacing.rho")
        self.rho = rho
        check_ends(noise_min, noise_max)
        self.noise_min = noise_min
        self.noise_max = noise_max

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        low, high = noise_range(schedule, self.noise_min, self.noise_max)
        ramp = (1 - i / (steps - 1) for i in range(1, steps))
        return from_noises(schedule, [high] + [low * (high / low) ** u**self.rho for u in ramp])
