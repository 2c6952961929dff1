"""The null space of a measurement: what is measured is put right in every prediction of x_0."""

from __future__ import annotations

from torch import Tensor

from diffusion.guidance.base import with_x0
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.types import Cond, Prediction


class DDNMGuidance(MeasurementGuidance):
    """x_0 = D - A^+ (A D - y), for measurements without noise (Wang et al. 2023, DDNM, eq. 13), in any sampler; the
    paper's is sampler=ancestral, and its code steps by eta = 0.85 with the network's own eps. The part that A does not
    see follows the measurement through the network only.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`; an operator that destroys detail, as a blur
            does, has no such inverse.
    """

    key = "guidance.ddnm"

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        prediction = self.denoiser(x, t, cond)
        residual = self.y(x) - self.operator(prediction.x0)
        corrected = self.operator.adjoint(self.operator.solve(residual, 1.0, 0.0), tuple(x.shape))
        return with_x0(self.schedule, prediction, prediction.x0 + corrected, x, t)
