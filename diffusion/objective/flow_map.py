r"""What losses of flow maps share: derivatives along the ODE in forward mode, and the straight path of any schedule.

With u = sigma / (alpha + sigma) and z = x / (alpha + sigma) every schedule is the straight one, z = (1 - u) x_0 +
u eps, and its velocity dz/du is eps - x_0: of a sample's own pair along its own path, of both expectations along the
ODE. A jump from t to s moves z by (u_s - u_t) times the average velocity between them, which is eps - x_0 of the
jump's prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffusion.denoiser import NetworkDenoiser
from diffusion.schedule.base import Schedule
from diffusion.types import Cond, Prediction, combine


@dataclass(frozen=True, slots=True)
class Rates:
    """alpha, sigma and their derivatives in t, (B,) float64."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def u(self) -> Tensor:
        """Where on the straight path, 0 at data and 1 at noise."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def du(self) -> Tensor:
        """du/dt."""
        return (self.d_sigma * self.alpha - self.sigma * self.d_alpha) / (self.alpha + self.sigma) ** 2

    def direction(self, x: Tensor, velocity: Tensor) -> Tensor:
        """dx/du (B, ...) at x (B, ...) for dz/du = ``velocity`` (B, ...)."""
        total = self.alpha + self.sigma
        return combine((self.d_alpha + self.d_sigma) / (self.du * total), x, total, velocity)


def rates(schedule: Schedule, t: Tensor) -> Rates:
    """The coefficients at t (B,) and how fast they change."""
    with torch.inference_mode(False), torch.no_grad(), forward_ad.dual_level():
        pairs = schedule.coefficients(forward_ad.make_dual(t.double().clone(), torch.ones_like(t, dtype=torch.float64)))
        (alpha, d_alpha), (sigma, d_sigma) = (forward_ad.unpack_dual(value) for value in pairs)
    none = torch.zeros_like(alpha)
    return Rates(alpha, sigma, none if d_alpha is None else d_alpha, none if d_sigma is None else d_sigma)


def along(f: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, dx: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    """f(x, t) and its derivative in the direction (dx, dt), in one pass of forward mode.

    The value can be differentiated further; the derivative is constant. Attention runs as plain products, since fused
    kernels have no forward derivative, without autocast: in bfloat16 the derivative would be rounding.

    x, dx (B, ...), t, dt (B,) float64.
    """
    grad, quiet = torch.is_grad_enabled(), torch.autocast(x.device.type, enabled=False)
    plain, eager = sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager")
    with torch.inference_mode(False), torch.set_grad_enabled(grad), quiet, plain, eager, forward_ad.dual_level():
        inputs = ((x, dx.to(x)), (t.double(), dt.double()))
        at, when = (forward_ad.make_dual(value.clone(), tangent.clone()) for value, tangent in inputs)
        value, derivative = forward_ad.unpack_dual(f(at, when))
        derivative = torch.zeros_like(value) if derivative is None else derivative.detach()
    return value, derivative


def average_velocity(denoiser: Any, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
    """eps - x_0 (B, ...) of the jump from x (B, ...) at t (B,) to s (B,): of the flow target the network's own output.

    denoiser: one with ``towards``.
    """
    return velocity(denoiser(x, t, denoiser.towards(x, s, cond)))


def velocity(prediction: Prediction) -> Tensor:
    """dz/du (B, ...) of a prediction."""
    return prediction.eps - prediction.x0


def straightened(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha + sigma, u) at t (B,): z = x / (alpha + sigma) lies at u on the straight path."""
    alpha, sigma = schedule.coefficients(t)
    return alpha + sigma, sigma / (alpha + sigma)


def check_jumps(denoiser: NetworkDenoiser, what: str) -> None:
    """Raises:
    ValueError: the network does not embed where a jump lands.
    """
    numbers = tuple(getattr(denoiser.network, "numbers", ()))
    if "to" not in numbers:
        raise ValueError(
            f"{what} is a map between two times, and this network is told one; "
            f"set network.numbers=[{','.join((*numbers, 'to'))}]"
        )


def check_smooth(schedule: Schedule, what: str) -> None:
    """Raises:
    ValueError: a beta table, whose path has kinks.
    """
    if schedule.steps is not None:
        raise ValueError(
            f"{what} differentiates the path in time, and a beta table has a kink at each of its {schedule.steps} "
            "steps; use a continuous schedule, such as schedule=flow, trig or continuous_cosine"
        )
