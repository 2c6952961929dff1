"""CFG++: guided data, unconditional noise."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.classifier_free import ClassifierFreeGuidance, Mode, combined, needs_condition, without
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, Prediction, RandnLike


class CFGPlusPlusGuidance(ClassifierFreeGuidance):
    """x_0 from uncond + scale (cond - uncond), noise put back with the unconditional eps (Chung et al. 2024, alg. 2).

    The prediction is the guided one; after the step, sigma (eps_uncond - eps_guided) is added at the level reached.
    That is the paper's DDIM exactly, for ``sampler=ddim`` at eta 0 and ``sampler=euler``; others get the same change.
    Every level inside the interval pays both passes.

    Args:
        scale: the paper's lambda in [0, 1], between the unconditional and the conditional prediction; or a mapping from
            parts of conditioner=joined to one each, the noise being that of the prediction without all of them.
        interval, mode: see :class:`ClassifierFreeGuidance`; outside, the conditional prediction and its own noise.
    """

    key = "guidance.cfg_plus_plus"
    off = {"interval": [0.0, 0.0]}  # noqa: RUF012 - of the base; no scale is

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float | Mapping[str, float] = 0.6,
        interval: list[float] | None = None,
        mode: Mode = "auto",
    ) -> None:
        if not all(0 <= value <= 1 for value in (scale.values() if isinstance(scale, Mapping) else [scale])):
            raise ValueError(
                f"CFG++ interpolates between two predictions with a scale in [0, 1], got {scale}; set {self.key}.scale"
            )
        super().__init__(denoiser, scale, interval, mode)
        self.strengths = self.by_part(math.inf)  # differs from any scale inside
        self._renoise: dict[float, Tensor] = {}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        needs_condition(cond, self.key)
        scales = [strength.at(self.schedule, x, t) for strength in self.strengths.values()]
        if math.inf in [scale for scale in scales if isinstance(scale, float)]:
            return self.denoiser(x, t, cond)
        predictions = self.predict(x, t, without(cond, list(self.strengths)))
        guided = combined(predictions, [s.clamp(max=1) if isinstance(s, Tensor) else s for s in scales])
        if not isinstance(t, Tensor):
            self._renoise[t] = predictions[-1].eps - guided.eps
        return guided

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, replay, randn_like)
        change = self._renoise.get(cur.t)
        self._renoise.clear()
        return x if change is None else x + nxt.sigma * change
