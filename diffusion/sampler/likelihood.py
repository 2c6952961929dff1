"""Exact likelihood through the probability-flow ODE, for any model."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from diffusion.sampler.angle_ode import angle, integrate, radius, velocity
from diffusion.sampler.base import Denoise
from diffusion.types import Cond, Denoiser, RandnLike


class FlowLogLikelihood:
    """log p(x_0) by the change of variables along the probability-flow ODE (Song et al. 2021, score SDE, eq. 39), the
    divergence estimated by Skilling-Hutchinson with random signs (eq. 40): unbiased, exact for a diagonal Jacobian.

    Guidance is part of the flow where all that it does is its answer to (x, t) (``Guidance.pointwise``), differentiable
    once more; other guidance is refused. The solver chooses its steps for the whole batch, so that a sample's value
    depends on the others by as much as the tolerances allow.

    Args:
        rtol, atol: tolerances of one solver step.
        end: time at which the data are put, below which the model is not called; a table's first knot bounds it.
        probes: sign vectors of the divergence's estimate; its standard error falls as 1 / sqrt(probes).

    Raises:
        ValueError: tolerances, end or probes that are not above 0; when called, guidance that makes no flow.
    """

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, end: float = 1e-5, probes: int = 1) -> None:
        if not (rtol > 0 and atol > 0 and 0 < end < 1 and probes >= 1):
            raise ValueError(
                f"rtol, atol above 0, end in (0, 1) and probes from 1, got {rtol}, {atol}, {end} and {probes}"
            )
        self.rtol = rtol
        self.atol = atol
        self.end = end
        self.probes = probes

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        cond: Cond = Cond(),  # noqa: B008 - frozen and empty
        *,
        randn_like: RandnLike = torch.randn_like,
    ) -> Tensor:
        """x0 (B, ...), continuous or dequantised data -> log-density (B,) in nats, float64."""
        self.check(denoiser)
        schedule = denoiser.schedule
        start, last = schedule.level(max(self.end, 1 / (schedule.steps or math.inf))), schedule.level(1.0)
        denoise = Denoise(denoiser, cond, schedule)
        signs = [randn_like(x0).sign() for _ in range(self.probes)]

        def drift(phi: float, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            with torch.enable_grad(), _kept_for_every_probe():
                u = state[0].detach().to(x0.dtype).requires_grad_()  # the solver joins it to the float64 divergence
                v = velocity(denoise, u, phi, (start, last))
                total = torch.zeros(len(u), dtype=torch.float64, device=u.device)
                for i, sign in enumerate(signs):
                    (grad,) = torch.autograd.grad(v, u, sign, retain_graph=i + 1 < len(signs))
                    total += (grad * sign).flatten(1).double().sum(1)
            return v.detach(), total / len(signs)

        with torch.no_grad():
            u = x0 * (start.alpha / radius(start))
            zero = torch.zeros(len(u), dtype=torch.float64, device=u.device)
            u, divergence = integrate(drift, (u, zero), angle(start), angle(last), self.rtol, self.atol)
        D, std = x0[0].numel(), schedule.prior_std(last)
        x = (u * radius(last)).flatten(1).double()
        prior = -0.5 * (x / std).square().sum(1) - D * (math.log(std) + 0.5 * math.log(2 * math.pi))
        return prior + divergence + D * (math.log(radius(last)) + math.log(start.alpha / radius(start)))

    @staticmethod
    def check(denoiser: Denoiser) -> None:
        """Raises:
        ValueError: guidance that acts between steps, remembers, or answers with a gradient of its own.
        """
        if not getattr(denoiser, "pointwise", True) or getattr(denoiser, "needs_grad", False):
            raise ValueError(
                "a likelihood through the probability-flow ODE needs a prediction that is a differentiable function of "
                "x and t alone, and this guidance acts between steps, remembers earlier levels or differentiates by "
                "itself; leave it out of guidance=[...]"
            )


def bits_per_dim(log_density: Tensor, dim: int, bin_width: float = 1 / 127.5) -> Tensor:
    """Nats (B,) of data dequantised over bins of ``bin_width`` -> bits per dimension; uint8 in [-1, 1] by default."""
    return -log_density / (dim * math.log(2)) - math.log2(bin_width)


def _kept_for_every_probe() -> AbstractContextManager[Any]:
    """A compiled network gives its buffers away in the first backward pass unless there are known to be more."""
    from torch._functorch import config

    return config.patch(donated_buffer=False)
