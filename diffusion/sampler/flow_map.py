"""Steps of a flow map, each in one call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level
from diffusion.types import RandnLike, Spacing


class FlowMapSampler(Sampler):
    """x_s = jump(x_t, t, s) from level to level (shortcut models, Frans et al. 2025; mean flows, Geng et al. 2025).

    Exact in any number of steps for an exact flow map; DDIM for a denoiser that was not trained as one.
    """

    order = 1

    def __init__(self, steps: int = 4, spacing: Spacing | None = None) -> None:
        super().__init__(steps, spacing)

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        return denoise.jump(x, cur.t, nxt.t), None
