"""Twisted particles: posterior samples that are exact as particles grow."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.operator.base import Operator
from diffusion.schedule.base import Level
from diffusion.schedule.posterior import between
from diffusion.types import Cond, Denoiser, Prediction, RandnLike


class Particles(NamedTuple):
    """P particles of each of B samples at the time ``t``.

    x: (B, P, ...). log_weight: (B, P), without the twist at t.
    """

    t: float
    x: Tensor
    log_weight: Tensor


class Twist(NamedTuple):
    """What is known of particles once the denoiser has seen them.

    x, x0, score: (B, P, ...), the score being the gradient of ``twist``. log_weight, twist: (B, P), twist without what
    is the same for all particles.
    """

    x: Tensor
    x0: Tensor
    score: Tensor
    log_weight: Tensor
    twist: Tensor

    def take(self, index: Tensor) -> Twist:
        """The particles ``index`` (B, N) of each sample."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        return Twist(*(value[rows, index] for value in self))


class TwistedGuidance(MeasurementGuidance):
    r"""The twisted diffusion sampler (Wu et al. 2023, Practical and asymptotically exact conditional sampling in
    diffusion models, algorithm 1): sequential Monte Carlo of the ancestral chain with the twist
    p~(y | x_t) = N(y; A D, r^2 A A^T + noise^2 I), D = E[x_0 | x_t] and r^2 = sigma^2 s^2 / (sigma^2 + alpha^2 s^2).

    Particles are proposed from N(m + q sigma^2 / alpha grad log p~, v I), where m, v are of the chain's
    q(x_s | x_t, x_0 = D), small variance, and q is its coefficient of x_0; they weigh p(x_s | x_t) p~(y | x_s) /
    (p~(y | x_t) proposal). Where the effective number of them falls below a share they are resampled, systematically;
    the last step draws one by its weight p(y | x_0) / p~(y | x_t). Each sample has particles of its own, so that
    samples are independent, and all of them start at the sampler's noise; the sampler gives the levels.

    As particles grow this is the chain's posterior given its first noise, and the data's as levels grow, where the
    first level says nothing of x_0. One particle is guidance by p~ in ancestral steps.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`.
        noise: standard deviation of the measurement's noise.
        sigma_data: s, standard deviation of the data.
        particles: P of each sample; a batch of B costs the network B P images.
        resample_below: share of P in [0, 1]; 1 resamples at every level, 0 never.
    """

    needs_grad = True
    key = "guidance.twisted"

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        noise: float = 0.05,
        sigma_data: float = 1.0,
        particles: int = 16,
        resample_below: float = 0.5,
    ) -> None:
        if not (noise > 0 and sigma_data > 0 and particles >= 1 and 0 <= resample_below <= 1):
            raise ValueError(
                "noise and sigma_data are above 0, particles at least 1 and resample_below in [0, 1], got "
                f"noise={noise}, sigma_data={sigma_data}, particles={particles} and resample_below={resample_below}; "
                f"set {self.key}"
            )
        super().__init__(denoiser, operator, measurement, simulate)
        self.noise, self.sigma_data = noise, sigma_data
        self.particles, self.resample_below = particles, resample_below
        self._held: Particles | None = None
        self._made: dict[float, Twist] = {}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        """The denoiser's prediction; of all particles, where x is the first of each sample at their time."""
        if isinstance(t, Tensor):
            raise ValueError("guidance by measurement is for sampling: all samples at one time, a float")
        level, rows = self.schedule.level(t), len(x)
        if level.sigma == 0:
            return self.denoiser(x, t, cond)
        held = self._held
        if held is None or held.t != t or held.x[:, 0].shape != x.shape:
            held = Particles(t, x[:, None], torch.zeros(rows, 1, dtype=torch.float64, device=x.device))
        count = held.x.shape[1]
        each = torch.arange(rows, device=x.device).repeat_interleave(count)
        y = self.y(x)
        y = y[each] if len(y) > 1 else y
        variance = (level.sigma * self.sigma_data) ** 2 / (level.sigma**2 + (level.alpha * self.sigma_data) ** 2)
        with torch.enable_grad():
            leaf = held.x.flatten(0, 1).detach().requires_grad_()
            prediction = self.denoiser(leaf, t, cond if count == 1 else cond.select(each))
            measured = self.operator(prediction.x0)
            residual = (y - measured).detach()
            weighted = self.operator.solve(residual, variance, self.noise**2)
            (score,) = torch.autograd.grad((weighted * measured).sum(), leaf)
        twist = -0.5 * (residual * weighted).flatten(1).sum(1, dtype=torch.float64)
        x0 = prediction.x0.detach().unflatten(0, (rows, count))
        score, twist = score.unflatten(0, (rows, count)), twist.unflatten(0, (rows, count))
        self._made[t] = Twist(held.x, x0, score, held.log_weight, twist)
        return Prediction(x0[:, 0], prediction.eps.detach().unflatten(0, (rows, count))[:, 0])

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, replay, randn_like)
        made = self._made.get(cur.t)
        self._made.clear()
        self._held = None
        if made is None:
            return x
        q = between(cur, nxt)
        if nxt.sigma == 0:  # a step without noise: what it arrives at is known, and so is its likelihood
            gap = self._gap(q.x0 * made.x0 + q.x * made.x)
            made = made._replace(score=torch.zeros_like(made.score), twist=-0.5 * gap / self.noise**2)
        log_weight = made.log_weight + made.twist
        if replay.left == 0:
            made = made.take(_drawn(log_weight, _uniform(log_weight, randn_like)))
        elif made.x.shape[1] == 1:
            made = made.take(torch.zeros(len(x), self.particles, dtype=torch.long, device=x.device))
        else:
            made = self._resampled(made, log_weight, randn_like)
        step = q.x0 * cur.sigma**2 / cur.alpha * made.score if cur.alpha > 0 else torch.zeros_like(made.score)
        noise = math.sqrt(q.small) * randn_like(made.x)
        reached = q.x0 * made.x0 + q.x * made.x + step + noise
        if replay.left > 0:
            # log p(x_s | x_t) - log proposal, of x_s = m + step + noise
            ratio = -((step / 2 + noise) * step).flatten(2).sum(2, dtype=torch.float64) / q.small
            self._held = Particles(nxt.t, reached, made.log_weight + ratio)
        return reached[:, 0]

    def _gap(self, x0: Tensor) -> Tensor:
        """|y - A x_0|^2 of particles (B, P, ...), as (B, P)."""
        y, measured = self.y(x0[:, 0]), self.operator(x0.flatten(0, 1)).unflatten(0, x0.shape[:2])
        return (y[:, None] - measured).square().flatten(2).sum(2, dtype=torch.float64)

    def _resampled(self, made: Twist, log_weight: Tensor, randn_like: RandnLike) -> Twist:
        """Those samples' particles drawn again, with equal weights, in which too few count."""
        count = log_weight.shape[1]
        weight = log_weight.softmax(1)
        few = 1 / weight.square().sum(1, keepdim=True) < self.resample_below * count
        places = (torch.arange(count, device=few.device) + _uniform(log_weight, randn_like)) / count
        kept = torch.arange(count, device=few.device).expand_as(weight)
        made = made.take(torch.where(few, _drawn(log_weight, places), kept))
        return made._replace(log_weight=torch.where(few, -made.twist, made.log_weight))


def _uniform(log_weight: Tensor, randn_like: RandnLike) -> Tensor:
    """(B, 1), uniform in [0, 1], of the source of normal noise."""
    return torch.special.ndtr(randn_like(log_weight[:, :1]))


def _drawn(log_weight: Tensor, place: Tensor) -> Tensor:
    """The particles (B, N) at which the weights' distribution function reaches ``place`` (B, N) in [0, 1]."""
    reached = log_weight.softmax(1).cumsum(1)
    return torch.searchsorted(reached, place).clamp(max=log_weight.shape[1] - 1)
