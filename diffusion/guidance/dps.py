"""Diffusion posterior sampling: down the measurement's error after every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.operator.base import Operator
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, Prediction, RandnLike


class DPSGuidance(MeasurementGuidance):
    """After each step x moves by -scale grad ||y - A x_0(x_t)||, the gradient at the level it left (Chung et al. 2023,
    algorithm 1, with scale = 2 zeta' of section 3.3), in any sampler.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`.
        scale: 1 does for most of the paper's tasks, with 1000 steps; fewer steps want more.
    """

    needs_grad = True
    key = "guidance.dps"
    linear = False
    off = {"scale": 0.0}  # noqa: RUF012 - of the base

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        scale: float = 1.0,
    ) -> None:
        if not scale >= 0:
            raise ValueError(f"the scale is 0 or above, got {scale}; set {self.key}.scale")
        super().__init__(denoiser, operator, measurement, simulate)
        self.scale = scale
        self._pull: dict[float, Tensor] = {}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        if isinstance(t, Tensor):
            return self.denoiser(x, t, cond)
        prediction, self._pull[t] = with_slope(self.denoiser, x, t, cond, self.error)
        return prediction

    def error(self, x0: Tensor) -> Tensor:
        """What every step goes down, (B,) of x_0 (B, ...)."""
        return self.scale * (self.y(x0) - self.operator(x0)).flatten(1).norm(dim=1)

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, replay, randn_like)
        pull = self._pull.get(cur.t)
        self._pull.clear()
        return x if pull is None else x - pull


def with_slope(
    denoiser: Denoiser, x: Tensor, t: float, cond: Cond, error: Callable[[Tensor], Tensor]
) -> tuple[Prediction, Tensor]:
    """The prediction of x (B, ...), and the gradient in x of an error (B,) of its x_0; both without a graph."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        prediction = denoiser(leaf, t, cond)
        (slope,) = torch.autograd.grad(error(prediction.x0).sum(), leaf)
    var_mix = None if prediction.var_mix is None else prediction.var_mix.detach()
    return Prediction(prediction.x0.detach(), prediction.eps.detach(), var_mix), slope
