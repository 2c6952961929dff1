"""Classifier-free guidance: away from the unconditional prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from diffusion.guidance.base import Guidance, mix, with_x0
from diffusion.guidance.strength import Scale, Strength
from diffusion.types import Cond, Denoiser, Prediction, expand

Mode = Literal["auto", "doubled", "two_pass"]
PIXELS = 4096
"""Pixels of a batch, over all samples, up to which a CPU is faster with one doubled batch: overheads count, and caches
still hold it. `python -m benchmarks --rows 10` measures both sides."""


class ClassifierFreeGuidance(Guidance):
    """uncond + scale (cond - uncond) (Ho & Salimans 2022, eq. 6, with scale = 1 + w), only inside ``interval``.

    With a scale for each part of a joined condition, in the order {c_1: s_1, ..., c_n: s_n}, the parts are removed one
    after the other, c_1 first: with D_k the prediction without c_1 ... c_k,

        D_n + s_n (D_{n-1} - D_n) + ... + s_1 (D_0 - D_1),

    which is eq. 3 of InstructPix2Pix (Brooks et al. 2023) for {text: 7.5, image: 1.5}. A part that is not named stays
    in every prediction, as with scale 1; all scales 1 are the condition as it is.

    A prediction whose coefficient is 0 is not computed: scale 1 is off, 0 unconditional, and neighbours of equal scale
    are removed together. Outside the interval one prediction is enough.

    Args:
        scale: 1 + w of the paper, or points [noise, scale] (see :class:`Strength`); or a mapping from parts of
            conditioner=joined to either.
        interval: (low, high] in sigma / alpha where guidance acts (Kynkäänniemi et al. 2024, eq. 5); ``None`` =
            everywhere.
        mode: "doubled" runs all predictions as one batch, "two_pass" one after the other; "auto" takes the passes on a
            CPU for batches of more than ``PIXELS``, where they were measured to be faster, and one batch elsewhere.
            A rule and not a timing at run time, so that a seed gives the same samples twice.
        rescale: share of the way back to the standard deviation that the conditional x_0 has, against over-exposure
            (Lin et al. 2024, section 3.4; 0.7 there).
        channels: how many of x's are guided, from the first; all where ``None``. The others are those of the prediction
            with the condition. DiT's and SiT's codes guide 3 of their 4 (Peebles & Xie 2023, appendix A).

    Raises:
        ValueError: reversed interval or unknown mode; when called, an unconditional model, or a part that the condition
            does not have.
    """

    key = "guidance.classifier_free"
    off = {"scale": 1.0}  # noqa: RUF012 - of the base

    def __init__(
        self,
        denoiser: Denoiser,
        scale: Scale | Mapping[str, Scale] = 1.5,
        interval: list[float] | None = None,
        mode: Mode = "auto",
        rescale: float = 0.0,
        channels: int | None = None,
    ) -> None:
        if mode not in ("auto", "doubled", "two_pass"):
            raise ValueError(f"the mode is auto, doubled or two_pass, got {mode!r}; set {self.key}.mode")
        if not 0 <= rescale <= 1:
            raise ValueError(f"a share lies in [0, 1], got rescale={rescale}; set {self.key}.rescale")
        if channels is not None and channels < 1:
            raise ValueError(f"channels is at least 1, or null for all, got {channels}; set {self.key}.channels")
        super().__init__(denoiser)
        self.scale = scale
        self.interval = interval
        self.mode = mode
        self.rescale = rescale
        self.channels = channels
        self.strengths = self.by_part(1.0)

    def by_part(self, off: float) -> dict[str | None, Strength]:
        """The strength of each part, of ``None`` for the whole condition; ``off`` outside the interval.

        Raises:
            ValueError: a scale or an interval that is none, or no part.
        """
        if not isinstance(self.scale, Mapping):
            return {None: Strength(self.scale, self.interval, off, self.key)}
        if not self.scale:
            raise ValueError(f"{self.key}.scale names no part of the condition; give a number, or {{text: 7.5}}")
        return {p: Strength(scale, self.interval, off, self.key, f"scale.{p}") for p, scale in self.scale.items()}

    def weigh(self, part: str, scale: float) -> None:
        """Another scale for one part of the condition. Where there was one for the whole, the part is removed first, so
        that scale 0 is the prediction without it and the whole's scale changes nothing.

        Raises:
            ValueError: a scale that is none.
        """
        one: dict[str | None, Strength] = {part: Strength(scale, self.interval, 1.0, self.key, f"scale.{part}")}
        self.strengths = self.strengths | one if part in self.strengths else one | self.strengths

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        if self.scale != 1:
            needs_condition(cond, self.key)
        scales = {part: strength.at(self.schedule, x, t) for part, strength in self.strengths.items()}
        removed, weights = _needed(list(scales.values()))
        conds = without(cond, [*scales][: removed[-1]])
        predictions = self.predict(x, t, [conds[k] for k in removed])
        guided = combined(predictions, weights)
        if self.channels is not None:
            guided = first_channels(guided, predictions[0], self.channels)
        if self.rescale == 0 or not weights:
            return guided
        ratio = _std(predictions[0].x0) / _std(guided.x0)
        return with_x0(self.schedule, guided, guided.x0 * (self.rescale * ratio + (1 - self.rescale)), x, t)

    def predict(self, x: Tensor, t: Tensor | float, conds: Sequence[Cond]) -> list[Prediction]:
        """The prediction with each condition: in one batch or one after the other, by the mode."""
        many = x.device.type == "cpu" and x[:, :1].numel() > PIXELS
        if len(conds) == 1 or self.mode == "two_pass" or (self.mode == "auto" and many):
            return [self.denoiser(x, t, cond) for cond in conds]
        count = len(conds)
        if isinstance(t, Tensor) and t.ndim:
            t = torch.cat([t] * count)
        # networks read the conditioner's slots; the raw label has no counterpart in a null condition
        joint = reduce(Cond.cat, [replace(cond, class_label=None) for cond in conds])
        out = self.denoiser(torch.cat([x] * count), t, joint)
        mixes = [None] * count if out.var_mix is None else out.var_mix.chunk(count)
        return [Prediction(*one) for one in zip(out.x0.chunk(count), out.eps.chunk(count), mixes, strict=True)]


def without(cond: Cond, parts: Sequence[str | None]) -> list[Cond]:
    """The condition, and what is left of it as the parts are removed one after the other; ``None`` is all of it."""
    conds = [cond]
    for part in parts:
        conds.append(conds[-1].drop() if part is None else conds[-1].without(part))
    return conds


def combined(predictions: Sequence[Prediction], weights: Sequence[Tensor | float]) -> Prediction:
    """p_n + sum over k of weights_k (p_k - p_{k+1}) in both expectations; the learned variance is p_0's."""
    if not weights:
        return predictions[0]
    guided = mix(predictions[-1], predictions[-2], weights[-1])
    x0, eps = guided.x0, guided.eps
    for more, fewer, weight in zip(predictions[:-2], predictions[1:-1], weights[:-1], strict=True):
        weight = expand(weight.to(x0), x0) if isinstance(weight, Tensor) else weight
        x0, eps = x0 + weight * (more.x0 - fewer.x0), eps + weight * (more.eps - fewer.eps)
    return Prediction(x0, eps, predictions[0].var_mix)


def first_channels(guided: Prediction, other: Prediction, count: int) -> Prediction:
    """The first ``count`` channels of one prediction, the rest of another."""
    x0, eps = (torch.cat((a[:, :count], b[:, count:]), 1) for a, b in ((guided.x0, other.x0), (guided.eps, other.eps)))
    return Prediction(x0, eps, guided.var_mix)


def _needed(scales: list[Tensor | float]) -> tuple[list[int], list[Tensor | float]]:
    """How many parts are removed in each prediction that does not cancel, and the scales of their differences."""
    removed, weights = list(range(len(scales) + 1)), list(scales)
    for k in reversed(range(len(scales))):
        following = weights[k + 1] if k + 1 < len(weights) else 1.0
        if not isinstance(weights[k], Tensor) and not isinstance(following, Tensor) and weights[k] == following:
            del removed[k + 1], weights[k]
    if weights and not isinstance(weights[0], Tensor) and weights[0] == 0.0:
        del removed[0], weights[0]
    return removed, weights


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
