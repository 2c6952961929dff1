"""The simple objective: squared error of the target, weighted by noise level."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Step, TimeDistribution, Weighting
from diffusion.objective.noising import Noised, NoisingObjective, squared_error
from diffusion.randomness import Randomness
from diffusion.types import Cond


class RegressionObjective(NoisingObjective):
    """w(log-SNR) ||target - output||^2 at a random level, a mean over each sample's elements (Ho et al. 2020, eq. 14).

    A learned variance is not trained by it; see :class:`diffusion.objective.hybrid.HybridObjective`.

    Args:
        weighting: stated on the x_0 error and carried over to the target that is trained.
        time_distribution, offset_noise, input_perturbation: see :class:`NoisingObjective`.
    """

    def __init__(
        self,
        weighting: Weighting,
        time_distribution: TimeDistribution,
        offset_noise: float = 0.0,
        input_perturbation: float = 0.0,
    ) -> None:
        super().__init__(time_distribution, offset_noise, input_perturbation)
        self.weighting = weighting

    def __call__(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        cond: Cond,
        *,
        randomness: Randomness | None = None,
        step: Step | None = None,
    ) -> Loss:
        noised = self.noised(denoiser, x0, randomness)
        output = denoiser.output(noised.x, noised.t, cond, (noised.alpha, noised.sigma))
        weight, mse = self.error(denoiser, output, x0, noised)
        return self.finish(denoiser, weight * mse, {"mse": mse}, noised, mse)

    def error(self, denoiser: NetworkDenoiser, output: Tensor, x0: Tensor, noised: Noised) -> tuple[Tensor, Tensor]:
        """(weight, mean squared error), both (B,), of the network's output (B, k C, ...)."""
        parameterization, alpha, sigma = denoiser.parameterization, noised.alpha, noised.sigma
        output = parameterization.answer(output, noised.x, alpha, sigma)
        mse = squared_error(parameterization.encode(x0, noised.eps, alpha, sigma), output)
        gain = (sigma / torch.as_tensor(parameterization.determinant(alpha, sigma))) ** 2
        return self.weighting.on_target(noised.log_snr, gain).to(mse), mse
