"""Guidance that a model has learned: it is told the scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffusion.guidance.base import Guidance
from diffusion.types import Cond, Denoiser, Prediction


class DistilledGuidance(Guidance):
    """The number "guidance" of a student of a guided teacher (Meng et al. 2023): classifier-free guidance for the price
    of one call.

    Args:
        scale: 1 + w of the paper, 1 = off.
        trained: [low, high], the scales that the student was told in training.

    Raises:
        ValueError: a model that was told none, or a scale outside of them.
    """

    key = "guidance.distilled"

    def __init__(self, denoiser: Denoiser, scale: float = 1.5, trained: Sequence[float] | None = None) -> None:
        if trained is None or len(trained) != 2:
            raise ValueError(
                "guidance=distilled needs a model that was told guidance scales in training (objective.scales), and "
                f"{self.key}.trained is {trained if trained is None else list(trained)}; use "
                "guidance=classifier_free, or train with objective=guidance_distillation"
            )
        low, high = trained
        if not low <= scale <= high:
            raise ValueError(
                f"this model was told guidance scales in [{low}, {high}], got {scale}; set {self.key}.scale inside"
            )
        super().__init__(denoiser)
        self.told = scale

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        scale = torch.full((len(x),), self.told, device=x.device)
        return self.denoiser(x, t, replace(cond, numbers={**cond.numbers, "guidance": scale}))
