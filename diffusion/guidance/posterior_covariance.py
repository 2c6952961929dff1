"""What guidance by a measurement needs of the denoiser's derivative: E[x_0 | x_t] and Cov[x_0 | x_t]."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion.guidance.base import coefficients
from diffusion.types import Cond, Denoiser, Prediction


class Moments(NamedTuple):
    """prediction: of the denoiser, without gradients. covariance: v (B, ...) -> Cov[x_0 | x_t] v."""

    prediction: Prediction
    covariance: Callable[[Tensor], Tensor]


def moments(denoiser: Denoiser, x: Tensor, t: Tensor | float, cond: Cond) -> Moments | None:
    """Cov[x_0 | x_t] = (sigma^2 / alpha) dE[x_0 | x_t] / dx_t (Tweedie's second formula), by vector-Jacobian products;
    ``None`` at an end, where x_t is x_0 or says nothing of it.

    Raises:
        ValueError: a time for each sample.
    """
    alpha, sigma = coefficients(denoiser.schedule, x, t)
    if isinstance(alpha, Tensor) or isinstance(sigma, Tensor):
        raise ValueError("guidance by measurement is for sampling: all samples at one time, a float")
    if sigma == 0 or alpha == 0:
        return None
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        made = denoiser(leaf, t, cond)
        x0 = made.x0  # which may be computed only now

    def covariance(v: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(x0, leaf, v, retain_graph=True)
        return (sigma**2 / alpha) * product

    mixed = None if made.var_mix is None else made.var_mix.detach()
    return Moments(Prediction(x0.detach(), made.eps.detach(), mixed), covariance)
