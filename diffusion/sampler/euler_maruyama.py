"""Euler-Maruyama on the reverse SDE."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise
from diffusion.sampler.reverse_diffusion import ReverseDiffusionSampler
from diffusion.schedule.base import Level
from diffusion.schedule.sde import drift_and_diffusion
from diffusion.types import RandnLike, combine


class EulerMaruyamaSampler(ReverseDiffusionSampler):
    """x_s = x_t - (f x_t - g^2 score) dt + g sqrt(dt) z, dt = t - s (Song et al. 2021, score SDE, eq. 6).

    Where reverse diffusion takes what the forward process does between two levels, this takes f and g at the first of
    them, of any schedule: :mod:`diffusion.schedule.sde`. On the VP SDE with ``spacing=linspace`` and 1000 steps that is
    the authors' predictor, evenly from t = 1 to 1e-3. The step to clean data is E[x_0 | x_t]; theirs is the same
    formula without its noise, which there is 1e-3 of a standard deviation of noise away and, where sigma jumps to 0 at
    t = 0 (VE, EDM), would leave sigma_min. Weak order 1.

    Raises:
        ValueError: sampling starts at alpha = 0, where f is infinite.
    """

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        prediction = denoise(x, cur.t)
        if nxt.sigma == 0:
            return prediction.x0 * nxt.alpha, None
        dt = cur.t - nxt.t
        f, variance = drift_and_diffusion(denoise.schedule, cur.t)
        mean = combine(1 - f * dt, x, -variance * dt / cur.sigma, prediction.eps)
        return combine(1.0, mean, math.sqrt(variance * dt), randn_like(x)), None
