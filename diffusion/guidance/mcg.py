"""Manifold-constrained gradients: down the measurement's error, then onto the measurement."""

from __future__ import annotations

from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.dps import DPSGuidance
from diffusion.schedule.base import Level
from diffusion.types import RandnLike


class MCGGuidance(DPSGuidance):
    """A step of :class:`diffusion.guidance.dps.DPSGuidance`, then x - A^+ (A x - y_s) with the measurement at the level
    reached, y_s = alpha y + sigma z (Chung et al. 2022, Improving diffusion models for inverse problems using manifold
    constraints, algorithm 1), in any sampler. For measurements without noise.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`; an operator that destroys detail, as a blur
            does, has no A^+.
        scale: of the gradient's step; 0 turns all of it off.
    """

    key = "guidance.mcg"
    linear = True

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, replay, randn_like)
        if self.scale == 0:
            return x
        measured = self.operator(x)
        wanted = nxt.alpha * self.y(x) + nxt.sigma * self.operator(randn_like(x))
        shape = tuple(x.shape)
        return x + self.operator.adjoint(self.operator.solve(wanted - measured, 1.0, 0.0), shape)
