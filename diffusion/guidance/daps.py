"""Decoupled annealing: clean images of a level's posterior, noised anew."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.guidance.base import StepReplay, with_x0
from diffusion.guidance.measured_step import MeasuredStepGuidance, Visited
from diffusion.operator.base import Operator
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, Prediction, RandnLike


class DAPSGuidance(MeasuredStepGuidance):
    """From x at s = sigma / alpha the probability-flow ODE gives x_0^, an x_0 is drawn from
    N(x_0; x_0^, s^2) N(y; A x_0, noise^2), and x at the next level is alpha x_0 + sigma z (Zhang et al. 2024, Improving
    diffusion inverse problem solving with decoupled noise annealing, algorithm 1). The sampler gives the levels; the
    paper takes 200.

    The paper draws by Langevin dynamics from x_0^. In so few steps they stay near it where A does not see, and s is
    large: for images that is the better restoration, and no draw. Where the decomposition of A is known, what all these
    steps make is drawn at once, of the same law: each direction is an AR(1) process.

    With ``exact`` and a linear A the draw is exact, u + s^2 A^T (s^2 A A^T + noise^2)^-1 (y + noise z' - A u) with
    u = x_0^ + s z.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`; any operator.
        noise: standard deviation of the measurement's noise; for draws that are exact or have ``tau=None``.
        ode_steps: network calls of Euler's method, at levels evenly spaced in (sigma / alpha)^(1/7) to 0.01, where the
            last predicts x_0 (in the code it leads there); 1 is E[x_0 | x].
        exact: draw exactly where A is linear; it is refused where A is not.
        langevin_steps: of one draw.
        langevin_rate: of these at the first level; it falls to a hundredth of it, linearly over the levels. The code
            has 1e-4 for super-resolution and blurs, 5e-5 for boxes, motion blur and phases, 2e-5 for high dynamic
            range.
        tau: what the Langevin dynamics take for the noise, whatever it is; the code's 0.01 is 0.01 / 2^(1/2) here, as
            its energy is not halved. ``None`` is ``noise``. Above 2 tau^2 / s_i^2 a rate leads away.
    """

    key = "guidance.daps"
    linear = False

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        noise: float = 0.05,
        ode_steps: int = 5,
        exact: bool = False,
        langevin_steps: int = 100,
        langevin_rate: float = 5e-5,
        tau: float | None = 0.0070711,
    ) -> None:
        if not (noise > 0 and ode_steps >= 1 and langevin_steps >= 1 and langevin_rate > 0):
            raise ValueError(
                "noise and langevin_rate are above 0, ode_steps and langevin_steps at least 1, got "
                f"noise={noise}, langevin_rate={langevin_rate}, ode_steps={ode_steps}, "
                f"langevin_steps={langevin_steps}; set {self.key}"
            )
        if not (tau is None or tau > 0):
            raise ValueError(f"tau is above 0, or null for the noise's own deviation, got {tau}; set {self.key}.tau")
        if exact and not operator.linear:
            raise ValueError(
                f"an exact draw is for linear operators and {type(operator).__name__} is not one; "
                f"set {self.key}.exact=false"
            )
        super().__init__(denoiser, operator, measurement, simulate, noise)
        self.ode_steps, self.exact, self.tau = ode_steps, exact, noise if tau is None else tau
        self.langevin_steps, self.langevin_rate = langevin_steps, langevin_rate

    def predict(self, x: Tensor, t: float, cond: Cond) -> Prediction:
        first = prediction = self.denoiser(x, t, cond)
        start = self.schedule.level(t)
        if start.alpha == 0:
            return first
        at, noise = x / start.alpha, start.noise
        for nxt in _spaced(noise, self.ode_steps):
            at = at + (nxt - noise) * (at - prediction.x0) / noise
            level, noise = self.schedule.level(self.schedule.time(nxt)), nxt
            prediction = self.denoiser(level.alpha * at, level.t, cond)
        return with_x0(self.schedule, first, prediction.x0, x, t)

    def step(self, visited: Visited, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        centre, spread = visited.prediction.x0, cur.noise
        y = self.y(centre)
        if self.exact:
            x0 = centre + spread * randn_like(centre)
            residual = y - self.operator(x0)
            residual = residual + self.noise * randn_like(residual)
            solved = self.operator.solve(residual, spread**2, self.noise**2)
            x0 = x0 + spread**2 * self.operator.adjoint(solved, tuple(x0.shape))
        else:
            progress = (replay.taken - 1) / (replay.taken + replay.left + 1)  # the code's: it never comes to 1
            x0 = self._langevin(centre, y, spread, self.langevin_rate * (1 - 0.99 * progress), randn_like)
        return nxt.alpha * x0 + nxt.sigma * randn_like(x0)

    def _langevin(self, centre: Tensor, y: Tensor, spread: float, rate: float, randn_like: RandnLike) -> Tensor:
        """Unadjusted, from the centre: x - rate grad U + sqrt(2 rate) z with U of the two Gaussians."""
        if self.operator.decomposed:
            return self._at_once(centre, y, spread, rate, randn_like)
        x = centre
        for _ in range(self.langevin_steps):
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                prior, data = (leaf - centre) / spread, (y - self.operator(leaf)) / self.tau
                (slope,) = torch.autograd.grad((prior.square().sum() + data.square().sum()) / 2, leaf)
            x = x - rate * slope + math.sqrt(2 * rate) * randn_like(x)
        return x

    def _at_once(self, centre: Tensor, y: Tensor, spread: float, rate: float, randn_like: RandnLike) -> Tensor:
        """Where n steps lead in a direction s_i: with k = rate (1 / s^2 + s_i^2 / tau^2) and a = 1 - k, from the
        centre c to mean c + (1 - a^n) / k rate s_i (y_i - s_i c) / tau^2, variance 2 rate (1 - a^2n) / (1 - a^2)."""
        count = self.langevin_steps

        def falls(s: Tensor) -> Tensor:
            """k, which float32 would lose beside 1"""
            return rate * (spread**-2 + s.double() ** 2 / self.tau**2)

        def pull(s: Tensor) -> Tensor:
            k = falls(s)
            return (rate / self.tau**2 * (1 - (1 - k) ** count) / k).to(s.dtype)

        def fresh(s: Tensor) -> Tensor:
            k = falls(s)
            whole = torch.where(k == 2, float(count), (1 - (1 - k) ** (2 * count)) / (k * (2 - k)))
            return (2 * rate * whole).sqrt().to(s.dtype)

        residual = self.operator.adjoint(y - self.operator(centre), tuple(centre.shape))
        return centre + self.operator.spectral(pull, residual) + self.operator.spectral(fresh, randn_like(centre))


def _spaced(noise: float, steps: int) -> list[float]:
    """sigma / alpha where a path from ``noise`` calls the denoiser again; the last prediction is its end."""
    low = min(LOWEST, noise) ** (1 / 7)
    high = noise ** (1 / 7)
    return [(high + (low - high) * i / (steps - 1)) ** 7 for i in range(1, steps)]


LOWEST = 0.01
"""sigma / alpha at which the ODE ends."""
