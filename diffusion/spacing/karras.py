"""EDM's spacing."""

from __future__ import annotations

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing, check_ends, from_noises, noise_range


class KarrasSpacing(Spacing):
    """(sigma / alpha)^(1 / rho) evenly spaced between two ends, then 0 (Karras et al. 2022, eq. 5).

    Args:
        rho: 7 in EDM; larger is denser near the data, infinite would be log_snr.
        noise_min, noise_max: ends in sigma / alpha, narrowed to what the schedule has.
    """

    def __init__(self, rho: float = 7.0, noise_min: float = 0.002, noise_max: float = 80.0) -> None:
        if not rho > 0:
            raise ValueError(f"rho is above 0, got {rho}; set spacing.rho")
        check_ends(noise_min, noise_max)
        self.rho = rho
        self.noise_min = noise_min
        self.noise_max = noise_max

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        low, high = noise_range(schedule, self.noise_min, self.noise_max)
        a, b = high ** (1 / self.rho), low ** (1 / self.rho)
        return from_noises(schedule, [high] + [(a + i / (steps - 1) * (b - a)) ** self.rho for i in range(1, steps)])
