"""Pseudo-inverse guidance: the score of a Gaussian guess of the measurement."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.guidance.base import coefficients, with_eps
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.operator.base import Operator
from diffusion.types import Cond, Denoiser, Prediction


class PiGDMGuidance(MeasurementGuidance):
    """p(y | x_t) = N(A x_0(x_t), r^2 A A^T + noise^2 I), r^2 = sigma^2 s^2 / (sigma^2 + alpha^2 s^2) (Song et al. 2023,
    Pseudoinverse-guided diffusion models, eqs. 6-8); its score is added to eps, in any sampler.

    Exact for Gaussian data of standard deviation s; r^2 is then Var(x_0 | x_t). A network of eps has errors in D and
    its derivative that count 1 / alpha fold, and the score another 1 / alpha fold in x_0: ``adaptive`` is for those.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`.
        noise: standard deviation of the measurement's noise.
        sigma_data: s, 1 in the paper.
        adaptive: the paper's weight r^2 alpha (its algorithm 1): x_0 = D + alpha r^2 score beside the denoiser's own
            eps, so that a step of DDIM moves by alpha_s alpha_t r^2 score. Exact for no data.
    """

    needs_grad = True
    key = "guidance.pigdm"

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        noise: float = 0.01,
        sigma_data: float = 1.0,
        adaptive: bool = False,
    ) -> None:
        if noise < 0 or not sigma_data > 0:
            raise ValueError(
                f"noise is 0 or above and sigma_data above 0, got {noise} and {sigma_data}; set {self.key}"
            )
        super().__init__(denoiser, operator, measurement, simulate)
        self.noise = noise
        self.sigma_data = sigma_data
        self.adaptive = adaptive

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        alpha, sigma = coefficients(self.schedule, x, t)
        if isinstance(alpha, Tensor) or isinstance(sigma, Tensor):
            raise ValueError("guidance by measurement is for sampling: all samples at one time, a float")
        if sigma == 0:
            return self.denoiser(x, t, cond)
        spread = sigma**2 * self.sigma_data**2 / (sigma**2 + alpha**2 * self.sigma_data**2)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            prediction = self.denoiser(leaf, t, cond)
            measured = self.operator(prediction.x0)
            residual = (self.y(x) - measured).detach()
            weighted = self.operator.solve(residual, spread, self.noise**2)
            (score,) = torch.autograd.grad((weighted * measured).sum(), leaf)
        prediction = Prediction(
            prediction.x0.detach(),
            prediction.eps.detach(),
            None if prediction.var_mix is None else prediction.var_mix.detach(),
        )
        if self.adaptive:
            moved = prediction.x0 + alpha * spread * score
            return Prediction(moved, prediction.eps, prediction.var_mix)
        return with_eps(self.schedule, prediction, prediction.eps - sigma * score, x, t)
