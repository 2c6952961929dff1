"""Plug-and-play restoration: a data step on every prediction of x_0, and noise that is partly drawn anew."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.guidance.base import StepReplay, coefficients, with_x0
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.operator.base import Operator
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, Prediction, RandnLike, combine


class DiffPIRGuidance(MeasurementGuidance):
    """x_0 = argmin ||y - A x||^2 + rho ||x - D||^2 with rho = weight noise^2 (alpha^2 / sigma^2 + 1 / s^2), then x at
    the next level is alpha x_0 + sigma (sqrt(1 - zeta) eps + sqrt(zeta) z), eps that of x and x_0 (Zhu et al. 2023,
    DiffPIR, algorithm 1), whatever step the sampler took; with zeta = 0 it is the sampler's own.

    The paper has no 1 / s^2. Without it rho tends to 0 with alpha, and x_0 of a blur is the noise of y over singular
    values near 0: hundreds where alpha starts at 5e-5, as in a cosine schedule, which no denoiser has seen. With it,
    weight = 1 and zeta = 0 x_0 is exact for Gaussian data of standard deviation s, as in pigdm.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`.
        noise: standard deviation of the measurement's noise.
        weight: the paper's lambda.
        zeta: share of noise that is fresh, in [0, 1]; the paper has 1 for inpainting, 0.1 for most else.
        sigma_data: s; ``None`` for the paper's rho.
    """

    key = "guidance.diffpir"

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        noise: float = 0.01,
        weight: float = 1.0,
        zeta: float = 0.1,
        sigma_data: float | None = 1.0,
    ) -> None:
        if not (noise > 0 and weight > 0 and 0 <= zeta <= 1 and (sigma_data is None or sigma_data > 0)):
            raise ValueError(
                f"noise, weight and sigma_data are above 0 and zeta lies in [0, 1], got noise={noise}, "
                f"weight={weight}, sigma_data={sigma_data} and zeta={zeta}; set {self.key}"
            )
        super().__init__(denoiser, operator, measurement, simulate)
        self.noise, self.weight, self.zeta, self.sigma_data = noise, weight, zeta, sigma_data
        self._made: dict[float, Prediction] = {}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        alpha, sigma = coefficients(self.schedule, x, t)
        if isinstance(alpha, Tensor) or isinstance(sigma, Tensor) or isinstance(t, Tensor):
            raise ValueError("guidance by measurement is for sampling: all samples at one time, a float")
        prediction = self.denoiser(x, t, cond)
        if sigma == 0:
            return prediction
        residual = self.y(x) - self.operator(prediction.x0)
        precision = 0.0 if self.sigma_data is None else self.sigma_data**-2
        rho = self.weight * self.noise**2 * (alpha**2 + sigma**2 * precision)  # times sigma^2
        solved = self.operator.solve(residual, sigma**2, rho)
        x0 = prediction.x0 + sigma**2 * self.operator.adjoint(solved, tuple(x.shape))
        self._made[t] = with_x0(self.schedule, prediction, x0, x, t)
        return self._made[t]

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, replay, randn_like)
        made = self._made.get(cur.t)
        self._made.clear()
        if made is None or self.zeta == 0 or nxt.sigma == 0:
            return x
        eps = combine(math.sqrt(1 - self.zeta), made.eps, math.sqrt(self.zeta), randn_like(x))
        return combine(nxt.alpha, made.x0, nxt.sigma, eps)
