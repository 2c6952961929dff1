"""The null space of a measurement: what is measured is put right in every prediction of x_0."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from diffusion.guidance.base import StepReplay, with_x0
from diffusion.guidance.measured_step import MeasuredStepGuidance, Visited
from diffusion.operator.base import Operator
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, Prediction, RandnLike, combine


class DDNMGuidance(MeasuredStepGuidance):
    """x_0 = D - A^+ (A D - y), for measurements without noise (Wang et al. 2023, DDNM, eq. 13). The part that A does
    not see follows the measurement through the network only.

    Steps are those of the authors' code, alpha x_0 + sigma (eta z + sqrt(1 - eta^2) eps) with the network's own eps and
    z normal; eta is of a step, so that results depend on the number of steps. With ``eta=None`` the sampler steps by
    the x_0 put right; the paper's algorithm 1 is that with sampler=ancestral.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`; an operator that destroys detail, as a blur
            does, has no such inverse.
        eta: in [0, 1], or ``None``.
    """

    key = "guidance.ddnm"

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        eta: float | None = 0.85,
    ) -> None:
        check_eta(eta, self.key)
        super().__init__(denoiser, operator, measurement, simulate, 0.0)
        self.eta = eta

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        stepped = super().__call__ if self.eta is not None else self.predict  # what is not noted is not stepped from
        prediction = stepped(x, t, cond)
        return with_x0(self.schedule, prediction, prediction.x0, x, t)

    def predict(self, x: Tensor, t: Tensor | float, cond: Cond) -> Prediction:
        """With x_0 put right, and the network's own eps."""
        prediction = self.denoiser(x, t, cond)
        residual = self.y(x) - self.operator(prediction.x0)
        corrected = self.operator.adjoint(self.operator.solve(residual, 1.0, 0.0), tuple(x.shape))
        return replace(prediction, x0=prediction.x0 + corrected)

    def step(self, visited: Visited, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        assert self.eta is not None
        x, prediction = visited
        reached = combine(nxt.alpha, prediction.x0, nxt.sigma * math.sqrt(1 - self.eta**2), prediction.eps)
        fresh = nxt.sigma * self.eta
        return reached if fresh == 0 else reached.add(randn_like(x), alpha=fresh)


def check_eta(eta: float | None, key: str) -> None:
    """Raises:
    ValueError: eta is neither in [0, 1] nor ``None``.
    """
    if not (eta is None or 0 <= eta <= 1):
        raise ValueError(f"eta lies in [0, 1], or is null for the paper's own steps, got {eta}; set {key}.eta")
