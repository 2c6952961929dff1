"""Denoising diffusion restoration: each singular direction of the measurement by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.measured_step import MeasuredStepGuidance, Visited
from diffusion.operator.base import Operator
from diffusion.schedule.base import Level
from diffusion.types import Denoiser, RandnLike


class DDRMGuidance(MeasuredStepGuidance):
    """In coordinates V^T x / alpha of A = U S V^T, with s and s' = sigma / alpha before and after the step, D of the
    prediction, y_i = (U^T y)_i / s_i and r_i = noise / s_i the noise of it (Kawar et al. 2022, eqs. 7-8), z normal:

        s_i = 0 (not measured):  D + sqrt(1 - eta^2) s' eps + eta s' z
        s' < r_i:                D + sqrt(1 - eta^2) s' (y_i - D) / r_i + eta s' z
        otherwise:               (1 - eta_b) D + eta_b y_i + sqrt(s'^2 - r_i^2 eta_b^2) z

    eta is of a step, so that results depend on the number of steps; the paper takes 20. A direction with s_i below
    10^-4 counts as not measured.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`; operators whose decomposition is cheap.
        noise: standard deviation of the measurement's noise.
        eta, eta_b: in [0, 1].
    """

    key = "guidance.ddrm"
    lost = 0.0
    """Share of the largest singular value below which what is measured is not used, and has fresh noise alone."""

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        noise: float = 0.01,
        eta: float = 0.85,
        eta_b: float = 1.0,
    ) -> None:
        if not (noise >= 0 and 0 <= eta <= 1 and 0 <= eta_b <= 1):
            raise ValueError(
                f"noise is 0 or above, eta and eta_b lie in [0, 1], got noise={noise}, eta={eta} and eta_b={eta_b}; "
                f"set {self.key}"
            )
        super().__init__(denoiser, operator, measurement, simulate, noise)
        self.eta: float | None = eta  # None is a subclass's, which steps otherwise then
        self.eta_b = eta_b

    def step(self, visited: Visited, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        assert self.eta is not None
        x, prediction = visited
        shape, spread, eta = tuple(x.shape), nxt.noise, self.eta
        keep = math.sqrt(1 - eta**2) * spread

        def lost(s: Tensor) -> Tensor:
            return (s > 0) & (s < self.lost * s.max())

        def late(s: Tensor) -> Tensor:
            """s' < r_i, of what is measured"""
            return spread * s < self.noise

        def towards(s: Tensor) -> Tensor:
            """of A^T (y - A D), which is s_i^2 (y_i - D)"""
            known = s.clamp_min(SMALLEST)
            weight = torch.where(late(s), keep * known / self.noise if self.noise > 0 else 0.0, self.eta_b)
            return torch.where((s < SMALLEST) | lost(s), 0.0, weight / known**2)

        def kept(s: Tensor) -> Tensor:
            return torch.where((s < SMALLEST) & ~lost(s), keep, 0.0)

        def fresh(s: Tensor) -> Tensor:
            left = spread**2 - (self.noise * self.eta_b / s.clamp_min(SMALLEST)) ** 2
            return torch.where((s < SMALLEST) | late(s), eta * spread, left.clamp_min(0).sqrt())

        residual = self.operator.adjoint(self.y(x) - self.operator(prediction.x0), shape)
        made = prediction.x0 + self.operator.spectral(towards, residual)
        made = made + self.operator.spectral(kept, prediction.eps)
        return nxt.alpha * (made + self.operator.spectral(fresh, randn_like(x)))


SMALLEST = 1e-4
"""Singular values below are taken for 0: what they measure is lost in the arithmetic."""
