"""The simple objective: squared error of the target, weighted by noise level."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Objective, Times, Weighting
from diffusion.types import Cond, GlobalRandomness, Randomness, combine


class Regression(Objective):
    """w(log-SNR) ||target - output||^2 at a random level, a mean over each sample's elements (Ho et al. 2020, eq. 14).

    weighting: stated on the x_0 error and carried over to the target that is trained.
    times: the distribution of levels.
    """

    def __init__(self, weighting: Weighting, times: Times) -> None:
        self.weighting = weighting
        self.times = times

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, *, randomness: Randomness | None = None
    ) -> Loss:
        randomness = randomness or GlobalRandomness(x0)
        t, importance = self.times(denoiser, randomness)
        t = t.to(x0.device)
        alpha, sigma = denoiser.coefficients(x0, t)
        eps = randomness.randn_like(x0)
        output = denoiser.output(combine(alpha, x0, sigma, eps), t, cond)
        parameterization = denoiser.parameterization
        if parameterization.learned_variance:
            output = output.chunk(2, dim=1)[0]
        mse = squared_error(parameterization.encode(x0, eps, alpha, sigma), output)
        gain = (sigma / parameterization.determinant(alpha, sigma)) ** 2
        weight = self.weighting.on_target(denoiser.schedule.log_snr(t), torch.as_tensor(gain))
        if importance is not None:
            weight = weight * importance.to(weight)
        return Loss(total=weight.to(mse) * mse, logs={"mse": mse}, t=t)


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean of (a - b)^2 over everything but the batch, (B,), in float32 at least."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    return (a.to(dtype) - b.to(dtype)).square().flatten(1).mean(1)
