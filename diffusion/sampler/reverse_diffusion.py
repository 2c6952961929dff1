"""Reverse diffusion, the plain discretisation of the reverse SDE."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level, Schedule
from diffusion.schedule.posterior import between
from diffusion.spacing.karras import KarrasSpacing
from diffusion.types import RandnLike, Spacing, combine


class ReverseDiffusionSampler(Sampler):
    """x_s = (2 - a) x_t - g^2 / sigma_t eps + g z, a = alpha_t / alpha_s, g^2 the variance that the forward step adds
    (Song et al. 2021, score SDE, eq. 46). The step to clean data adds no noise. Weak order 1.

    Raises:
        ValueError: sampling starts at alpha = 0, where the SDE's drift is infinite.
    """

    order = 1
    spacing = KarrasSpacing()

    def __init__(self, steps: int = 500, spacing: Spacing | None = None) -> None:
        super().__init__(steps, spacing)

    def levels(self, schedule: Schedule) -> list[Level]:
        levels = super().levels(schedule)
        if levels[0].alpha == 0:
            raise ValueError(
                "the reverse SDE's drift is infinite where alpha is 0, and no discretisation of it converges "
                "from there; use spacing=karras or spacing=log_snr, which start below, or sampler=ancestral"
            )
        return levels

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        variance = between(cur, nxt).large
        mean = combine(2 - cur.alpha / nxt.alpha, x, -variance / cur.sigma, denoise(x, cur.t).eps)
        return (mean if nxt.sigma == 0 else combine(1.0, mean, math.sqrt(variance), randn_like(x))), None
