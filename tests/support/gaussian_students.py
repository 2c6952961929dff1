"""Exact students and teachers of N(mu, tau^2), and a design of four points whose mean is an expectation.

With x_0 in {mu +- tau} and eps in {+-1} the first two moments are those of the Gaussian, so that the mean of any loss
that is quadratic in (x_0, eps) is its expectation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.base import Network
from diffusion.parameterization.x0 import X0Parameterization
from diffusion.randomness import Randomness
from diffusion.schedule.base import Schedule
from diffusion.types import Cond, expand

MU, TAU = 0.7, 0.6
Gain = Callable[[Tensor], Tensor]
"""t (B,) -> what x - alpha mu is multiplied by."""


class ExactNetwork(Network):
    """mu + scale gain(t) (x - alpha mu), with a trainable scale of 1."""

    def __init__(self, schedule: Schedule, gain: Gain, mu: float = MU) -> None:
        super().__init__()
        self.schedule, self.gain, self.mu = schedule, gain, mu
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        t = self.time(c_noise)
        return self.mu + self.scale * expand(self.gain(t), x) * (x - expand(self.schedule.alpha(t), x) * self.mu)

    def time(self, c_noise: Tensor) -> Tensor:
        """The inverse of the schedule's c_noise."""
        low, high = torch.zeros_like(c_noise), torch.ones_like(c_noise)
        for _ in range(60):
            mid = (low + high) / 2
            below = self.schedule.c_noise(mid) < c_noise
            low, high = torch.where(below, mid, low), torch.where(below, high, mid)
        return high


def denoiser(schedule: Schedule, gain: Gain, mu: float = MU) -> NetworkDenoiser:
    return NetworkDenoiser(ExactNetwork(schedule, gain, mu), schedule, X0Parameterization())


def posterior(schedule: Schedule, tau: float = TAU) -> Gain:
    """Of E[x_0 | x_t]."""
    return lambda t: schedule.alpha(t) * tau**2 / spread(schedule, t, tau) ** 2


def consistency(schedule: Schedule, end: float = 0.0, tau: float = TAU) -> Gain:
    """Of the flow map to the time ``end``, where alpha is 1."""
    to = spread(schedule, torch.tensor(end, dtype=torch.float64), tau)
    return lambda t: to / spread(schedule, t, tau)


def spread(schedule: Schedule, t: Tensor, tau: float = TAU) -> Tensor:
    """nu_t, the standard deviation of x_t."""
    return (schedule.alpha(t) ** 2 * tau**2 + schedule.sigma(t) ** 2).sqrt()


def teacher(schedule: Schedule, gain: Gain | None = None) -> DiffusionModel:
    return DiffusionModel(denoiser(schedule, gain or posterior(schedule)), shape=(1, 2, 2))


def design(count: int, mu: float = MU, tau: float = TAU) -> Tensor:
    """x_0 of the four points, (count, 1, 2, 2)."""
    return (
        torch.tensor([mu + tau, mu + tau, mu - tau, mu - tau], dtype=torch.float64)
        .reshape(1, 1, 2, 2)
        .repeat(count, 1, 1, 1)
    )


class FourPoints(Randomness):
    """Uniforms as given, one row a call, and the eps of the four points."""

    def __init__(self, *uniforms: Tensor) -> None:
        self.uniforms = list(uniforms)
        self.size = len(uniforms[0])
        self.place = torch.arange(self.size)

    def rand(self) -> Tensor:
        return self.uniforms.pop(0).double()

    def shared(self, group: Tensor) -> Tensor:
        return self.rand()[group]

    def randn_like(self, x: Tensor) -> Tensor:
        return torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=x.dtype).reshape(1, 1, 2, 2).expand(x.shape).clone()


def every(pairs: int) -> Tensor:
    """(pairs,) uniforms that draw each of as many equally likely pairs once."""
    return (torch.arange(pairs, dtype=torch.float64) + 0.5) / pairs
