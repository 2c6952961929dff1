r"""The probability-flow ODE in the angle of the level, regular from pure noise to clean data, for black-box solvers.

With r = hypot(alpha, sigma), u = x / r and phi = atan2(sigma, alpha) in [0, pi/2], dy/dn = eps becomes

    du / dphi = cos(phi) E[eps | x] - sin(phi) E[x_0 | x]

(Salimans & Ho 2022, appendix D, there for alpha^2 + sigma^2 = 1): the velocity target, finite at both ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusion.sampler.base import Denoise
from diffusion.schedule.base import Level
from diffusion.types import combine


def angle(level: Level) -> float:
    """phi, 0 at clean data and pi/2 where alpha is 0."""
    return math.atan2(level.sigma, level.alpha)


def radius(level: Level) -> float:
    """r = sqrt(alpha^2 + sigma^2), 1 for a variance-preserving schedule."""
    return math.hypot(level.alpha, level.sigma)


def velocity(denoise: Denoise, u: Tensor, phi: float, ends: tuple[Level, Level]) -> Tensor:
    """du / dphi at phi between the angles of two levels."""
    level = next((end for end in ends if abs(phi - angle(end)) < 1e-12), None) or denoise.at(math.tan(phi))
    prediction = denoise(u * radius(level), level.t)
    return combine(math.cos(phi), prediction.eps, -math.sin(phi), prediction.x0)


def integrate(
    f: Callable[[float, Any], Any], state: Any, start: float, end: float, rtol: float, atol: float, **options: Any
) -> Any:
    """The state at ``end`` of d state / d phi = f(phi, state), by adaptive Dormand-Prince 5(4).

    Raises:
        ImportError: torchdiffeq is not installed.
    """
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise ImportError("this needs torchdiffeq; pip install alphabar[ode]") from None
    at = torch.tensor([start, end], dtype=torch.float64)
    path = odeint(
        lambda phi, y: f(float(phi), y), state, at, rtol=rtol, atol=atol, method="dopri5", options=options or None
    )
    return tuple(part[-1] for part in path) if isinstance(path, tuple) else path[-1]
