r"""Parameterizations: what the network is asked for. Every target is a linear mixture of signal and noise,

    target = a x_0 + b eps,        x_t = alpha x_0 + sigma eps,

so that one 2 x 2 solve turns any output back into both expectations:

    x_0 = (b x_t - sigma target) / d,   eps = (alpha target - a x_t) / d,   d = alpha b - sigma a.

Coefficients are Python floats while sampling and (B,) float64 tensors while training; the data keep their dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion.types import Prediction, combine

Coefficient = Tensor | float


class Parameterization(ABC):
    """The training target and its inverse.

    learned_variance: the network gives twice the data's channels; the second half interpolates the posterior's
    log-variance between its two bounds (Nichol & Dhariwal 2021, eq. 15).
    """

    learned_variance: bool = False

    @abstractmethod
    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        """(a, b) of target = a x_0 + b eps."""

    def input_scale(self, alpha: Coefficient, sigma: Coefficient) -> Coefficient:
        """What x_t is multiplied by before the network sees it: 1 unless the target brings a preconditioning."""
        return 1.0

    def determinant(self, alpha: Coefficient, sigma: Coefficient) -> Coefficient:
        """d = alpha b - sigma a: 0 where the target says nothing about one of x_0 and eps."""
        a, b = self.coefficients(alpha, sigma)
        return alpha * b - sigma * a

    def encode(self, x0: Tensor, eps: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """The target (B, ...) that the network is trained to give."""
        a, b = self.coefficients(alpha, sigma)
        return combine(a, x0, b, eps)

    def decode(self, output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> Prediction:
        """The network's output (B, C or 2C, ...) and the x (B, C, ...) that it saw -> both expectations."""
        var_mix = None
        if self.learned_variance:
            output, raw = output.chunk(2, dim=1)
            var_mix = (raw + 1) / 2
        a, b = self.coefficients(alpha, sigma)
        d = self.determinant(alpha, sigma)
        if isinstance(d, float) and d == 0.0:
            raise ValueError(
                f"{type(self).__name__} says nothing about one of x_0 and eps at alpha = {alpha}, sigma = {sigma}; "
                "a sampler must not ask for a prediction there (choose another spacing or another target)"
            )
        return Prediction(
            x0=combine(b / d, x, -sigma / d, output),
            eps=combine(alpha / d, output, -a / d, x),
            var_mix=var_mix,
        )
