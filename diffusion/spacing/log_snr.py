"""Evenly spaced log-SNR, DPM-Solver's spacing."""

from __future__ import annotations

from diffusion.schedule.base import Schedule
from diffusion.spacing.base import Spacing, check_ends, from_noises, noise_range


class LogSNRSpacing(Spacing):
    """lam = log(alpha / sigma) evenly spaced between two ends, then 0 (Lu et al. 2022, DPM-Solver, section 3.3).

    Args:
        noise_min, noise_max: ends in sigma / alpha, narrowed to what the schedule has. A cosine schedule reaches 2e4,
            and steps spent above 80 or so are lost on nearly pure noise.
    """

    def __init__(self, noise_min: float = 0.002, noise_max: float = 80.0) -> None:
        check_ends(noise_min, noise_max)
        self.noise_min = noise_min
        self.noise_max = noise_max

    def __call__(self, schedule: Schedule, steps: int) -> list[float]:
        low, high = noise_range(schedule, self.noise_min, self.noise_max)
        return from_noises(schedule, [high] + [high * (low / high) ** (i / (steps - 1)) for i in range(1, steps)])
