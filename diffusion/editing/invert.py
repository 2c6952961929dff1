"""Inversion: the image's own noise, drawn from under another condition."""

from __future__ import annotations

from torch import Tensor

from diffusion.editing.base import Edit, MaskUse, Subject, check_fraction


class InvertEdit(Edit):
    """The noise at which the sampler arrives at the image under ``source``, without guidance, and samples from there
    under the new condition (Song et al. 2021, DDIM, section 5.4). With the same condition and no guidance the image
    comes back: to the sampler's order, or with ``sampler=bdia`` exactly.

    Args:
        source: what the image shows, a text or a class; the null condition where ``None``.
        to: time in (0, 1] up to which the image is inverted: below 1 it keeps its composition.
    """

    mask: MaskUse = "optional"
    inverts = True

    def __init__(self, source: str | int | None = None, to: float = 1.0) -> None:
        check_fraction("to", to)
        self.source, self.to = source, to

    def __call__(self, subject: Subject) -> Tensor:
        return subject.back_and_forth(self.to)
