"""Classifier-free guidance: away from the unconditional prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from diffusion.guidance.base import Guidance, mix, with_x0
from diffusion.guidance.strength import Scale, Strength
from diffusion.types import Cond, Denoiser, Prediction

Mode = Literal["auto", "doubled", "two_pass"]
PIXELS = 4096
"""Pixels of a batch, over all samples, up to which a CPU is faster with one doubled batch: overheads count, and caches
still hold it. `python -m benchmarks --rows 10` measures both sides."""


class ClassifierFreeGuidance(Guidance):
    """uncond + scale (cond - uncond) (Ho & Salimans 2022, eq. 6, with scale = 1 + w), only inside ``interval``.

    Scale 1 is off and 0 unconditional; neither pays a second pass, and no level outside the interval does.

    Args:
        scale: 1 + w of the paper, or points [noise, scale] (see :class:`Strength`).
        interval: (low, high] in sigma / alpha where guidance acts (Kynkäänniemi et al. 2024, eq. 5); ``None`` =
            everywhere.
        mode: "doubled" runs both branches as one batch of 2 B, "two_pass" one after the other; "auto" takes two passes
            on a CPU for batches of more than ``PIXELS``, where they were measured to be faster, and doubles elsewhere.
            A rule and not a timing at run time, so that a seed gives the same samples twice.
        rescale: share of the way back to the standard deviation that the conditional x_0 has, against over-exposure
            (Lin et al. 2024, section 3.4; 0.7 there).

    Raises:
        ValueError: reversed interval or unknown mode; when called, an unconditional model.
    """

    key = "guidance.classifier_free"

    def __init__(
        self,
        denoiser: Denoiser,
        scale: Scale = 1.5,
        interval: list[float] | None = None,
        mode: Mode = "auto",
        rescale: float = 0.0,
    ) -> None:
        if mode not in ("auto", "doubled", "two_pass"):
            raise ValueError(f"the mode is auto, doubled or two_pass, got {mode!r}; set {self.key}.mode")
        if not 0 <= rescale <= 1:
            raise ValueError(f"a share lies in [0, 1], got rescale={rescale}; set {self.key}.rescale")
        super().__init__(denoiser)
        self.scale = scale
        self.interval = interval
        self.mode = mode
        self.rescale = rescale
        self.strength = Strength(scale, interval, 1.0, self.key)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        if self.scale != 1:
            needs_condition(cond, self.key)
        scale = self.strength.at(self.schedule, x, t)
        if isinstance(scale, float) and scale == 1.0:
            return self.denoiser(x, t, cond)
        if isinstance(scale, float) and scale == 0.0:
            return self.denoiser(x, t, cond.drop())
        with_cond, without = self.both(x, t, cond)
        guided = mix(without, with_cond, scale)
        if self.rescale == 0:
            return guided
        ratio = _std(with_cond.x0) / _std(guided.x0)
        return with_x0(self.schedule, guided, guided.x0 * (self.rescale * ratio + (1 - self.rescale)), x, t)

    def both(self, x: Tensor, t: Tensor | float, cond: Cond) -> tuple[Prediction, Prediction]:
        """The predictions with the condition and without it."""
        null = cond.drop()
        many = x.device.type == "cpu" and x[:, :1].numel() > PIXELS
        if self.mode == "two_pass" or (self.mode == "auto" and many):
            return self.denoiser(x, t, cond), self.denoiser(x, t, null)
        if isinstance(t, Tensor) and t.ndim:
            t = torch.cat((t, t))
        # networks read the conditioner's slots; the raw label has no counterpart in the null condition
        joint = self.denoiser(
            torch.cat((x, x)), t, Cond.cat(replace(cond, class_label=None), replace(null, class_label=None))
        )
        mixes = (None, None) if joint.var_mix is None else joint.var_mix.chunk(2)
        first, second = zip(joint.x0.chunk(2), joint.eps.chunk(2), mixes, strict=True)
        return Prediction(*first), Prediction(*second)


def needs_condition(cond: Cond, key: str) -> None:
    """Raises:
    ValueError: the condition is empty.
    """
    if cond.is_empty:
        raise ValueError(
            f"{key} needs a condition and this model has none; "
            "train with conditioner=label, or leave it out of guidance=[...]"
        )


def _std(x: Tensor) -> Tensor:
    return x.flatten(1).std(1).reshape(-1, *[1] * (x.ndim - 1))
