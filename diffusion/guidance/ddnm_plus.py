"""The null space of a noisy measurement."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.ddnm import check_eta
from diffusion.guidance.ddrm import SMALLEST, DDRMGuidance
from diffusion.guidance.measured_step import Visited
from diffusion.operator.base import Operator
from diffusion.schedule.base import Level
from diffusion.schedule.posterior import between
from diffusion.types import Denoiser, RandnLike


class DDNMPlusGuidance(DDRMGuidance):
    """DDNM with noise (Wang et al. 2023, eqs. 17-19), in coordinates of A = U S V^T. The authors' code steps as
    :class:`diffusion.guidance.ddrm.DDRMGuidance` with eta_b = 1, but that a direction of which next to nothing is
    measured is not led and has D and fresh noise alone: less noise than the level's, and with it the finest detail of
    what is blurred.

    With ``eta=None`` steps are ancestral, as in the paper, of q(x_s | x_t, x_0) with mean b x_t + a x_0 and standard
    deviation p: x_0 = D - lambda A^+ (A D - y) with lambda = min(1, p s_i / (a noise)) in a singular direction s_i, and
    fresh noise of variance p^2 - (a lambda noise / s_i)^2, so that x_s has the schedule's noise. Then a direction with
    s_i below noise times the largest singular value (noise at most 1) counts as not measured: where lambda is below 1,
    all noise that a step adds is that of y, the same at every step, and it adds up where fresh noise averages out. The
    smaller s_i, the more levels that are.

    The sampler gives the levels; the paper takes 100.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`; operators whose decomposition is cheap.
        noise: standard deviation of the measurement's noise.
        eta: in [0, 1], or ``None``.
        lost: share of the largest singular value below which a direction that is measured counts as lost; 0.03 in the
            code, of a blur's kernel along each axis. With 0 every direction has the noise of its level.
    """

    key = "guidance.ddnm_plus"

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        noise: float = 0.05,
        eta: float | None = 0.85,
        lost: float = 0.03,
    ) -> None:
        if not noise > 0:
            raise ValueError(f"noise is above 0, got {noise}; set {self.key}.noise, or choose guidance=ddnm")
        if not lost >= 0:
            raise ValueError(f"lost is 0 or above, got {lost}; set {self.key}.lost")
        check_eta(eta, self.key)
        super().__init__(denoiser, operator, measurement, simulate, noise, 0.0 if eta is None else eta)
        self.eta, self.lost = eta, lost

    def step(self, visited: Visited, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        if self.eta is not None:
            return super().step(visited, cur, nxt, replay, randn_like)
        x, prediction = visited
        law = between(cur, nxt)
        b, a, variance = float(law.x), float(law.x0), float(law.small)
        bound = math.sqrt(variance) / (a * self.noise)

        def weight(s: Tensor) -> Tensor:
            """lambda / s_i, 0 of what is not measured"""
            measured = s >= (min(self.noise, 1.0) * s.max()).clamp_min(SMALLEST)
            return torch.where(measured, (1 / s.clamp_min(SMALLEST)).clamp_max(bound), 0.0)

        def towards(s: Tensor) -> Tensor:
            """of A^T (y - A D), which is A^+ (y - A D) by s_i^2"""
            return weight(s) / s.clamp_min(SMALLEST)

        def fresh(s: Tensor) -> Tensor:
            return (variance - (a * self.noise * weight(s)) ** 2).clamp_min(0).sqrt()

        residual = self.operator.adjoint(self.y(x) - self.operator(prediction.x0), tuple(x.shape))
        x0 = prediction.x0 + self.operator.spectral(towards, residual)
        return b * x + a * x0 + self.operator.spectral(fresh, randn_like(x))
