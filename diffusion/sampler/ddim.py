"""DDIM, deterministic at eta 0 and DDPM's chain at eta 1, and its inversion."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level
from diffusion.schedule.posterior import between
from diffusion.types import RandnLike, Spacing, combine


class DDIM(Sampler):
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std z, std = eta sqrt(beta~) (Song et al. 2021, eqs. 12, 16).

    At eta 0 it is the Euler step of the probability-flow ODE in sigma / alpha; in between a family with the same
    marginals.

    Args:
        eta: 0 = deterministic, 1 = DDPM's chain with the small variance.

    Raises:
        ValueError: eta outside [0, 1].
    """

    order = 1

    def __init__(self, steps: int = 50, spacing: Spacing | None = None, eta: float = 0.0) -> None:
        super().__init__(steps, spacing)
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta lies in [0, 1] (0 = deterministic, 1 = DDPM), got {eta}; set sampler.eta")
        self.eta = float(eta)

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        prediction = denoise(x, cur.t)
        if self.eta == 0:
            return combine(nxt.alpha, prediction.x0, nxt.sigma, prediction.eps), None
        variance = self.eta**2 * between(cur, nxt).small
        mean = combine(nxt.alpha, prediction.x0, math.sqrt(max(nxt.sigma**2 - variance, 0.0)), prediction.eps)
        return (combine(1.0, mean, math.sqrt(variance), randn_like(x)) if variance > 0 else mean), None
