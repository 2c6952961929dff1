"""DDIM, deterministic at eta 0 and DDPM's chain at eta 1, and its inversion."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffusion.sampler.base import Denoise, OnStep, Sampler, told
from diffusion.sampler.ends import Final, Prior, check_final, check_prior, ended
from diffusion.schedule.base import Level, Schedule
from diffusion.schedule.posterior import between
from diffusion.types import Cond, Denoiser, RandnLike, Spacing, combine


class DDIMSampler(Sampler):
    """x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std z, std = eta sqrt(beta~) (Song et al. 2021, eqs. 12, 16).

    At eta 0 it is the Euler step of the probability-flow ODE in sigma / alpha; in between a family with the same
    marginals.

    Args:
        eta: 0 = deterministic, 1 = DDPM's chain with the small variance.
        final: where the last step leads: ``clean`` data, or the ``first`` level of the table, as in latent diffusion's
            code.
        prior: the noise that sampling starts from: the schedule's, or sigma times standard normal noise.

    Raises:
        ValueError: eta outside [0, 1], or an unknown final level.
    """

    order = 1
    noiseless = "eta=0"

    def __init__(
        self,
        steps: int = 50,
        spacing: Spacing | None = None,
        eta: float = 0.0,
        final: Final = "clean",
        prior: Prior = "schedule",
    ) -> None:
        super().__init__(steps, spacing)
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta lies in [0, 1] (0 = deterministic, 1 = DDPM), got {eta}; set sampler.eta")
        check_final(final)
        check_prior(prior)
        self.eta, self.final, self.prior = float(eta), final, prior
        self.invertible = self.eta == 0

    def levels(self, schedule: Schedule) -> list[Level]:
        return ended(super().levels(schedule), schedule, self.final)

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        prediction = denoise(x, cur.t)
        if self.eta == 0:
            return prediction.mix(nxt.alpha, nxt.sigma), None
        variance = self.eta**2 * between(cur, nxt).small
        mean = combine(nxt.alpha, prediction.x0, math.sqrt(max(nxt.sigma**2 - variance, 0.0)), prediction.eps)
        return (mean.add_(randn_like(x), alpha=math.sqrt(variance)) if variance > 0 else mean), None

    @torch.no_grad()
    def invert(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        cond: Cond = Cond(),  # noqa: B008 - frozen and empty
        *,
        to: float = 1.0,
        iterations: int = 1,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Data (B, ...) -> x at the time ``to``, from which this sampler gives them back (Song et al. 2021, sec. 4.3).

        A step is undone by solving x_s = DDIM(x_t) for x_t with the noise that the model sees at x_t: once from
        x_t = x_s, the usual inversion, of order 1; each further iteration of this fixed point brings the way back
        nearer to exact. From alpha = 0 nothing leads back, and that one step is taken forwards.

        on_step: see the base.

        Raises:
            ValueError: eta above 0, fewer than one iteration, or a single step from alpha = 0.
        """
        if iterations < 1:
            raise ValueError(f"a step is undone in 1 iteration or more, got iterations={iterations}")
        denoise = Denoise(denoiser, cond, denoiser.schedule)
        levels = self.inverse_levels(denoiser.schedule, to)
        x = x0
        for i, (clean, noisy) in enumerate(pairwise(reversed(levels))):
            if noisy.alpha == 0:
                if clean.sigma == 0:
                    raise ValueError("a single step from alpha = 0 has no inverse; set sampler.steps to 2 or more")
                x = denoise(x, clean.t).eps * noisy.sigma
            else:
                ratio, start = noisy.alpha / clean.alpha, x
                for _ in range(iterations):
                    x = combine(ratio, start, noisy.sigma - ratio * clean.sigma, denoise(x, noisy.t).eps)
            told(on_step, i, noisy, x, denoise)
        return x if levels[0].t == to < 1 else x / self.prior_std(denoiser.schedule, levels[0])
