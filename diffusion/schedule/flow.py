"""Rectified flow: a straight line from data to noise."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.schedule.base import Schedule


class FlowSchedule(Schedule):
    """alpha = 1 - u, sigma = u (Liu et al. 2023), u = shift t / (1 + (shift - 1) t) (Esser et al. 2024, eq. 23).

    alpha(1) = 0: an epsilon target is refused, flow, velocity and x0 are not. c_noise = 1000 u.

    shift: above 1 moves times towards noise, for larger images; sqrt of the ratio of their numbers of pixels.
    """

    def __init__(self, shift: float = 1.0) -> None:
        if not 0 < shift < math.inf:
            raise ValueError(f"a flow's shift is above 0, got {shift}; set schedule.shift")
        self.shift = shift

    def alpha(self, t: Tensor) -> Tensor:
        t = t.double()
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, t: Tensor) -> Tensor:
        t = t.double()
        return self.shift * t / (1 + (self.shift - 1) * t)

    def c_noise(self, t: Tensor) -> Tensor:
        return 1000 * self.sigma(t)

    def time(self, noise: float) -> float:
        return 1.0 if noise == math.inf else max(noise, 0.0) / (max(noise, 0.0) + self.shift)
