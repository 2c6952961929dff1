r"""Parameterizations: what the network predicts. Every target is a linear mixture of signal and noise,

    target = a x_0 + b eps,        x_t = alpha x_0 + sigma eps,

so that one 2 x 2 solve turns any output back into both expectations:

    x_0 = (b x_t - sigma target) / d,   eps = (alpha target - a x_t) / d,   d = alpha b - sigma a.

Coefficients are Python floats while sampling and (B,) float64 tensors while training; the data keep their dtype.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion.parameterization.solved import Coefficient, Solved, Source
from diffusion.types import Prediction, combine


class Parameterization(ABC):
    """The training target and its inverse.

    learned_variance: the network gives a group of the data's channels more; the last one interpolates the posterior's
    log-variance between its two bounds (Nichol & Dhariwal 2021, eq. 15).
    outputs: groups of the data's channels that the network gives for the target itself.
    """

    learned_variance: bool = False
    outputs: int = 1

    @abstractmethod
    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        """(a, b) of target = a x_0 + b eps."""

    def input_scale(self, alpha: Coefficient, sigma: Coefficient) -> Coefficient:
        """What x_t is multiplied by before the network sees it: 1 unless the target brings a preconditioning."""
        return 1.0

    def determinant(self, alpha: Coefficient, sigma: Coefficient) -> Coefficient:
        """d = alpha b - sigma a: 0 where the target does not determine both x_0 and eps."""
        a, b = self.coefficients(alpha, sigma)
        return alpha * b - sigma * a

    def encode(self, x0: Tensor, eps: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """The target (B, ...) that the network is trained to give."""
        a, b = self.coefficients(alpha, sigma)
        return combine(a, x0, b, eps)

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's output (B, k C, ...) -> the target, and var_mix where it is learned."""
        if not self.learned_variance:
            return output, None
        *target, raw = output.chunk(self.outputs + 1, dim=1)
        return target[0] if len(target) == 1 else torch.cat(target, dim=1), (raw + 1) / 2

    def answer(self, output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        """What the output (B, k C, ...) stands for, (B, C, ...): held against :meth:`encode` in training."""
        return self.split(output)[0]

    def decode(self, output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> Prediction:
        """The network's output (B, k C, ...) and the x (B, C, ...) that it saw -> both expectations."""
        output, var_mix = self.split(output)
        a, b = self.coefficients(alpha, sigma)
        d = self.determinant(alpha, sigma)
        if isinstance(d, float) and d == 0.0:
            raise ValueError(
                f"{type(self).__name__} does not determine both x_0 and eps at alpha = {alpha}, sigma = {sigma}; "
                "a sampler must not call the network there (choose another spacing or another target)"
            )
        return Solved(None, None, var_mix, Source(x, output, (b / d, -sigma / d), (-a / d, alpha / d)))
