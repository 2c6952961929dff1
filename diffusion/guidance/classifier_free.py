"""Classifier-free guidance: away from the unconditional prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from diffusion.guidance.base import Guidance, interval_of, mix, noise_of
from diffusion.types import Cond, Denoiser, Prediction


class ClassifierFree(Guidance):
    """uncond + scale (cond - uncond) (Ho & Salimans 2022, eq. 6, with scale = 1 + w), only inside ``interval``.

    Scale 1 is off and 0 unconditional; neither pays a second pass, and no level outside the interval does.

    Args:
        scale: 1 + w of the paper.
        interval: (low, high] in sigma / alpha where guidance acts (Kynkäänniemi et al. 2024, eq. 5); ``None`` =
            everywhere.
        mode: "doubled" runs both branches as one batch of 2 B, "two_pass" one after the other; "auto" takes two passes
            on a CPU, where they were measured to be faster, and doubles elsewhere. A rule and not a timing at run
            time, so that a seed gives the same samples twice.

    Raises:
        ValueError: reversed interval or unknown mode; when called, an unconditional model.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float = 1.5,
        interval: list[float] | None = None,
        mode: Literal["auto", "doubled", "two_pass"] = "auto",
    ) -> None:
        if mode not in ("auto", "doubled", "two_pass"):
            raise ValueError(f"guidance.classifier_free.mode is auto, doubled or two_pass, got {mode!r}")
        super().__init__(denoiser)
        self.scale = scale
        self.low, self.high = interval_of(interval, "guidance.classifier_free.interval")
        self.mode = mode

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        if self.scale != 1 and cond.is_empty:
            raise ValueError(
                "classifier-free guidance needs a condition and this model has none; "
                "train with conditioner=label, or leave classifier_free out of guidance=[...]"
            )
        scale = self.scale_at(x, t)
        if isinstance(scale, float) and scale == 1.0:
            return self.denoiser(x, t, cond)
        if isinstance(scale, float) and scale == 0.0:
            return self.denoiser(x, t, cond.drop())
        with_cond, without = self.both(x, t, cond)
        return mix(without, with_cond, scale)

    def scale_at(self, x: Tensor, t: Tensor | float) -> Tensor | float:
        """The scale at t, 1 outside the interval: a float for a float, () or (B,) float64 for a tensor."""
        noise = noise_of(self.schedule, x, t)
        if isinstance(noise, Tensor):
            return torch.where((self.low < noise) & (noise <= self.high), float(self.scale), 1.0).double()
        return float(self.scale) if self.low < noise <= self.high else 1.0

    def both(self, x: Tensor, t: Tensor | float, cond: Cond) -> tuple[Prediction, Prediction]:
        """The predictions with the condition and without it."""
        null = cond.drop()
        if self.mode == "two_pass" or (self.mode == "auto" and x.device.type == "cpu"):
            return self.denoiser(x, t, cond), self.denoiser(x, t, null)
        if isinstance(t, Tensor) and t.ndim:
            t = torch.cat((t, t))
        # networks read the conditioner's slots; the raw label has no counterpart in the null condition
        joint = self.denoiser(torch.cat((x, x)), t, Cond.cat(replace(cond, label=None), replace(null, label=None)))
        mixes = (None, None) if joint.var_mix is None else joint.var_mix.chunk(2)
        first, second = zip(joint.x0.chunk(2), joint.eps.chunk(2), mixes, strict=True)
        return Prediction(*first), Prediction(*second)
