r"""The posterior between two levels of one schedule, s < t: one transition of the reverse chain.

From x_t = alpha_{t|s} x_s + sigma_{t|s} z with alpha_{t|s} = alpha_t / alpha_s and
sigma_{t|s}^2 = sigma_t^2 - alpha_{t|s}^2 sigma_s^2 (Kingma et al. 2021, appendix A.1-A.2):

    q(x_s | x_t, x_0) = N( alpha_{t|s} sigma_s^2 / sigma_t^2  x_t  +  alpha_s sigma_{t|s}^2 / sigma_t^2  x_0,  small )
    small = sigma_{t|s}^2 sigma_s^2 / sigma_t^2        beta~ of DDPM, the lower bound of the reverse variance
    large = sigma_{t|s}^2                              beta of DDPM, its upper bound

On the knots of a beta table this is Ho et al. 2020, eqs. 6-7, for neighbours and for any respacing (beta of a wider
step is 1 - alpha_{t|s}^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.schedule.base import Level

Coefficient = Tensor | float


@dataclass(frozen=True, slots=True)
class Posterior:
    """q(x_s | x_t, x_0): mean = x x_t + x0 x_0, variance between ``small`` and ``large``.

    All four are floats, or float64 tensors (B,) where the levels were tensors.
    """

    x: Coefficient
    x0: Coefficient
    small: Coefficient
    large: Coefficient

    def log_variance(self, mix: Tensor) -> Tensor:
        """mix log large + (1 - mix) log small, elementwise (Nichol & Dhariwal 2021, eq. 15), in ``mix``'s dtype.

        mix: (B, ...), 0 = small, 1 = large. At clean data small is 0 and the result -inf (mix below 1): replace
        ``small`` first where a density is needed there (DDPM's code takes the next index's value).
        """
        return mix * _log(self.large, mix) + (1 - mix) * _log(self.small, mix)


def posterior(alpha_t: Coefficient, sigma_t: Coefficient, alpha_s: Coefficient, sigma_s: Coefficient) -> Posterior:
    """The posterior's coefficients from the noisier level t and the cleaner s, all floats or all float64 tensors (B,).

    alpha_t = 0 and sigma_s = 0 are ordinary: mean alpha_s x_0, and variance ``small`` 0 in the second case.
    """
    ratio = alpha_t / alpha_s
    keep = (sigma_s / sigma_t) ** 2
    large = sigma_t**2 - (ratio * sigma_s) ** 2
    return Posterior(x=ratio * keep, x0=alpha_s * large / sigma_t**2, small=large * keep, large=large)


def between(cur: Level, nxt: Level) -> Posterior:
    """The posterior of one sampling step, in Python floats: from ``cur`` to the cleaner ``nxt``."""
    return posterior(cur.alpha, cur.sigma, nxt.alpha, nxt.sigma)


def _log(value: Coefficient, like: Tensor) -> Tensor | float:
    if isinstance(value, Tensor):
        return value.log().to(like).reshape(value.shape + (1,) * (like.ndim - value.ndim))
    return math.log(value) if value > 0 else -torch.inf
