"""CFG++: guided data, unconditional noise."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.guidance.base import StepReplay, mix
from diffusion.guidance.classifier_free import ClassifierFreeGuidance, Mode, needs_condition
from diffusion.guidance.strength import Strength
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, Prediction, RandnLike


class CFGPlusPlusGuidance(ClassifierFreeGuidance):
    """x_0 from uncond + scale (cond - uncond), noise put back with the unconditional eps (Chung et al. 2024, alg. 2).

    The prediction is the guided one; after the step, sigma (eps_uncond - eps_guided) is added at the level reached.
    That is the paper's DDIM exactly, for ``sampler=ddim`` at eta 0 and ``sampler=euler``; others get the same change.
    Every level inside the interval pays both passes.

    Args:
        scale: the paper's lambda in [0, 1], between the unconditional and the conditional prediction.
        interval, mode: see :class:`ClassifierFreeGuidance`; outside, the conditional prediction and its own noise.
    """

    key = "guidance.cfg_plus_plus"

    def __init__(
        self, denoiser: Denoiser, scale: float = 0.6, interval: list[float] | None = None, mode: Mode = "auto"
    ) -> None:
        if not 0 <= scale <= 1:
            raise ValueError(
                f"CFG++ interpolates between two predictions with a scale in [0, 1], got {scale}; set {self.key}.scale"
            )
        super().__init__(denoiser, scale, interval, mode)
        self.strength = Strength(scale, interval, math.inf, self.key)  # outside: told from any scale inside
        self._renoise: dict[float, Tensor] = {}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        needs_condition(cond, self.key)
        scale = self.strength.at(self.schedule, x, t)
        if isinstance(scale, float) and scale == math.inf:
            return self.denoiser(x, t, cond)
        with_cond, without = self.both(x, t, cond)
        guided = mix(without, with_cond, scale.clamp(max=1) if isinstance(scale, Tensor) else scale)
        if not isinstance(t, Tensor):
            self._renoise[t] = without.eps - guided.eps
        return guided

    def after(self, x: Tensor, cur: Level, nxt: Level, again: StepReplay, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, again, randn_like)
        change = self._renoise.get(cur.t)
        self._renoise.clear()
        return x if change is None else x + nxt.sigma * change
