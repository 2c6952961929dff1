"""What students of a teacher share: the teacher as a denoiser of the student's schedule, and scales that are drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.guidance.base import mix, placed, to_other
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.model import DiffusionModel
from diffusion.objective.base import Objective
from diffusion.randomness import Randomness
from diffusion.schedule.base import Schedule
from diffusion.types import Cond, Prediction

NEARLY = 1 + 1e-3
"""Noise by which a student may go beyond its teacher: a rounding of the two ends."""


class TeacherDenoiser:
    """A teacher on the student's schedule: it sees the same data in the same noise, whatever its own schedule and
    target, under its own condition of the same columns.

    Args:
        scale: (B,) of classifier-free guidance, 1 = off; told to a teacher that is told one, and made of two
            predictions otherwise. Without guidance where ``None``.
    """

    def __init__(self, teacher: DiffusionModel, schedule: Schedule, scale: Tensor | None = None) -> None:
        self.teacher = teacher
        self.schedule = schedule
        self.scale = scale

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        teacher: DiffusionModel = placed(self.teacher, x)
        x, t = to_other(self.schedule, teacher.schedule, x, t)
        own = teacher.own(x, cond)
        if self.scale is None:
            return teacher.denoiser(x, t, own)
        if is_told(teacher.denoiser):
            return teacher.denoiser(x, t, told(teacher.denoiser, own, self.scale))
        if own.null is None:  # the null condition itself, which guidance leaves as it is
            return teacher.denoiser(x, t, own)
        conditional, without = ClassifierFreeGuidance(teacher.denoiser).predict(x, t, [own, own.drop()])
        return mix(without, conditional, self.scale)


class TaughtObjective(Objective):
    """An objective whose targets are a teacher's.

    Args:
        teacher: another run's model.
        scales: [low, high], from which a guidance scale of the teacher is drawn for each sample, 1 = off. The network
            is told it as the number "guidance" where it embeds one. Without guidance where ``None``.

    Raises:
        ValueError: scales that are not low <= high.
    """

    def __init__(self, teacher: DiffusionModel, scales: Sequence[float] | None = None) -> None:
        if scales is not None and not (len(scales) == 2 and -math.inf < scales[0] <= scales[1] < math.inf):
            raise ValueError(
                f"guidance scales are [low, high] with low <= high, got {list(scales)}; set objective.scales"
            )
        self.teacher: DiffusionModel = teacher
        self.scales = None if scales is None else (float(scales[0]), float(scales[1]))

    def check(self, denoiser: NetworkDenoiser) -> None:
        theirs, mine = self.teacher.schedule.level(1.0).noise, denoiser.schedule.level(1.0).noise
        if not mine <= theirs * NEARLY:
            raise ValueError(
                f"this schedule ends at sigma/alpha = {mine:.4g}, where the teacher, whose own ends at {theirs:.4g}, "
                "was not trained; use the teacher's schedule, or a teacher that was trained on as much noise"
            )
        self.check_scales(denoiser)

    def check_scales(self, denoiser: NetworkDenoiser) -> None:
        """Raises:
        ValueError: a scale is to be drawn and cannot be told, or has nothing to strengthen.
        """
        if self.scales is None:
            if is_told(self.teacher.denoiser):
                raise ValueError(
                    "the teacher is told a guidance scale, and objective.scales names none; set objective.scales to a "
                    f"part of those that it was trained with, {scales_of(self.teacher)}"
                )
            return
        if not self.teacher.conditioner.columns:
            raise ValueError(
                "objective.scales are of a teacher's guidance, and this teacher has no condition to strengthen; "
                "use a teacher with conditioner=label or text, or objective.scales=null"
            )
        if self.scales[0] < self.scales[1] and not is_told(denoiser):
            raise ValueError(
                f"a guidance scale is drawn from {list(self.scales)}, and the network is not told which; "
                "set network.numbers=[guidance], or two equal numbers in objective.scales"
            )
        known = scales_of(self.teacher)
        if is_told(self.teacher.denoiser) and known and not known[0] <= self.scales[0] <= self.scales[1] <= known[1]:
            raise ValueError(
                f"the teacher was told guidance scales in {list(known)}, got {list(self.scales)}; "
                "set objective.scales to a part of them"
            )

    def scale(self, randomness: Randomness, like: Tensor) -> Tensor | None:
        """(B,) float64 on the device of ``like``, ``None`` without guidance."""
        if self.scales is None:
            return None
        low, high = self.scales
        return (low + (high - low) * randomness.rand()).to(like.device)


def is_told(denoiser: NetworkDenoiser) -> bool:
    """Does its network embed a guidance scale?"""
    return "guidance" in getattr(denoiser.network, "numbers", ())


def told(denoiser: NetworkDenoiser, cond: Cond, scale: Tensor | None) -> Cond:
    """The condition with a guidance scale (B,), where there is one and the denoiser embeds it."""
    if scale is None or not is_told(denoiser):
        return cond
    return replace(cond, numbers={**cond.numbers, "guidance": scale.to(torch.float32)})


def scales_of(model: DiffusionModel) -> Sequence[float] | None:
    """The guidance scales that a run was trained with."""
    scales: Sequence[float] | None = ((model.config or {}).get("objective") or {}).get("scales")
    return scales
