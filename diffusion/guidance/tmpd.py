"""Tweedie moment projected diffusion: the covariance of the measurement by its row sums."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.guidance.base import with_x0
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.guidance.posterior_covariance import moments
from diffusion.operator.base import Operator
from diffusion.types import Cond, Denoiser, Prediction


class TMPDGuidance(MeasurementGuidance):
    """E[x_0 | x_t, y] = D + C A^T (y - A D) / (A C A^T 1 + noise^2): as :class:`diffusion.guidance.mmps.MMPSGuidance`,
    A C A^T replaced by the diagonal of its row sums (Boys et al. 2023, Tweedie moment projected diffusions). Exact for
    Gaussian data where A C A^T is diagonal. A row sum below 0, which no diagonal is, counts with its magnitude: where
    the denoiser's derivative is large it is unsure, and the step is to be small.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`.
        noise: standard deviation of the measurement's noise.
    """

    needs_grad = True
    key = "guidance.tmpd"

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        noise: float = 0.01,
    ) -> None:
        if not noise > 0:
            raise ValueError(f"noise is above 0, got noise={noise}; set {self.key}.noise")
        super().__init__(denoiser, operator, measurement, simulate)
        self.noise = noise

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        found = moments(self.denoiser, x, t, cond)
        if found is None:
            return self.denoiser(x, t, cond)
        x0, shape = found.prediction.x0, tuple(x.shape)
        measured = self.operator(x0)
        ones = self.operator.adjoint(torch.ones_like(measured), shape)
        rows = self.operator(found.covariance(ones)).abs()  # of a learned denoiser some are far below 0
        weighted = (self.y(x) - measured) / (rows + self.noise**2)
        x0 = x0 + found.covariance(self.operator.adjoint(weighted, shape))
        return with_x0(self.schedule, found.prediction, x0, x, t)
