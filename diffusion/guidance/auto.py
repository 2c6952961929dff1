"""Autoguidance: away from a worse version of the same model."""

from __future__ import annotations

from torch import Tensor

from diffusion.guidance.base import Guidance, mix, placed, to_other
from diffusion.guidance.strength import Scale, Strength
from diffusion.types import Cond, Denoiser, Prediction


class AutoGuidance(Guidance):
    """weak + scale (main - weak) (Karras et al. 2024, Guiding a diffusion model with a bad version of itself, eq. 3).

    The weak model sees the same data in the same noise, whatever its own schedule and target; an unconditional one
    makes this EDM2's classifier-free guidance. Scale 1 is off; there and outside the interval the weak model is not
    called.

    Args:
        weak: a denoiser of the same data: smaller, trained for less time, or both.
        scale, interval: see :class:`diffusion.guidance.classifier_free.ClassifierFreeGuidance`.
    """

    off = {"scale": 1.0}  # noqa: RUF012 - of the base

    def __init__(
        self, denoiser: Denoiser, weak: Denoiser, scale: Scale = 2.0, interval: list[float] | None = None
    ) -> None:
        super().__init__(denoiser)
        self.weak = weak
        self.scale = scale
        self.interval = interval
        self.strength = Strength(scale, interval, 1.0, "guidance.auto")

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        scale = self.strength.at(self.schedule, x, t)
        main = self.denoiser(x, t, cond)
        if isinstance(scale, float) and scale == 1.0:
            return main
        weak = placed(self.weak, x)(*to_other(self.schedule, self.weak.schedule, x, t), cond)
        if weak.x0.shape != main.x0.shape:
            raise ValueError(
                f"the weak model predicts {tuple(weak.x0.shape[1:])} and the main one {tuple(main.x0.shape[1:])}; "
                "guidance.auto.weak is a run on the same data"
            )
        return mix(weak, main, scale)
