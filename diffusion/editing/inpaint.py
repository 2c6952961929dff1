"""Inpainting: what the mask covers is drawn anew, and the rest is kept."""

from __future__ import annotations

from torch import Tensor

from diffusion.editing.base import Edit, MaskUse, Subject, check_fraction
from diffusion.guidance.repaint import RePaintGuidance
from diffusion.operator.mask import MaskOperator


class InpaintEdit(Edit):
    """What is kept is replaced after every step by alpha x_0 + sigma z (Song et al. 2021, score SDE, appendix I.2), and
    stretches of steps are repeated so that the two parts agree (Lugmayr et al. 2022, RePaint).

    Args:
        strength: time in (0, 1] that sampling starts from; below 1 the covered part keeps something of what it was.
        repeats: how often a stretch of steps is taken; 1 is plain replacement.
        jump_length: steps of a stretch.
    """

    mask: MaskUse = "needed"

    def __init__(self, strength: float = 1.0, repeats: int = 1, jump_length: int = 10) -> None:
        check_fraction("strength", strength)
        if repeats < 1 or jump_length < 1:
            raise ValueError(
                f"stretches of 1 step or more are taken once or more, got jump_length={jump_length} and "
                f"repeats={repeats}; set edit.jump_length and edit.repeats"
            )
        self.strength, self.repeats, self.jump_length = strength, repeats, jump_length

    def __call__(self, subject: Subject) -> Tensor:
        assert subject.mask is not None
        start = None if self.strength == 1 else (subject.x0, self.strength)
        if self.repeats == 1:
            return subject.sample(subject.noise, start)
        guided = RePaintGuidance(
            subject.denoiser,
            MaskOperator(seen=1 - subject.mask),
            subject.x0,
            simulate=False,
            repeats=self.repeats,
            jump_length=self.jump_length,
        )
        return subject.sampler(
            guided,
            subject.noise,
            subject.cond,
            start=start,
            randn_like=subject.randn_like,
            on_step=subject.on_step,
        )
