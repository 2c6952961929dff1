"""The circle of data and noise of one spread."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.schedule.base import Schedule


class TrigSchedule(Schedule):
    """alpha = cos(a), sigma = sigma_data sin(a), a = t atan(sigma_max / sigma_data) (TrigFlow, Lu & Song 2025, eq. 9).

    x has the spread sigma_data of the data at every time, and sigma / alpha rises from 0 to sigma_max. c_noise = a, in
    radians. Goes with ``parameterization=edm``, whose target is then -v / sigma_data, v = dx/da.

    sigma_data: standard deviation of the data.
    """

    def __init__(self, sigma_data: float = 0.5, sigma_max: float = 80.0) -> None:
        if not (0 < sigma_data < math.inf and 0 < sigma_max < math.inf):
            raise ValueError(
                f"a circle takes sigma_data and sigma_max above 0, got {sigma_data} and {sigma_max}; "
                "set schedule.sigma_data and schedule.sigma_max"
            )
        self.sigma_data = sigma_data
        self.last = math.atan(sigma_max / sigma_data)

    def alpha(self, t: Tensor) -> Tensor:
        return self.c_noise(t).cos()

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_data * self.c_noise(t).sin()

    def c_noise(self, t: Tensor) -> Tensor:
        return t.double() * self.last

    def time(self, noise: float) -> float:
        return min(max(math.atan(noise / self.sigma_data) / self.last, 0.0), 1.0)

    def times(self, noise: Tensor) -> Tensor:
        return ((noise.double() / self.sigma_data).atan() / self.last).clamp(min=2.0**-60, max=1)
