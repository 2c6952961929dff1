"""Variations: the image's own noise, turned a little."""

from __future__ import annotations

from torch import Tensor

from diffusion.editing.base import Edit, Subject, check_fraction, slerp


class VariationEdit(Edit):
    """Samples from slerp(z, z', amount), z the noise that the image is inverted to and z' fresh noise.

    Args:
        amount: in (0, 1]: 0.2 changes little, 1 draws another image.
        source: what the image shows, a text or a class; the null condition where ``None``.
    """

    inverts = True

    def __init__(self, amount: float = 0.3, source: str | int | None = None) -> None:
        check_fraction("amount", amount)
        self.amount, self.source = amount, source

    def __call__(self, subject: Subject) -> Tensor:
        return subject.again(slerp(subject.invert(subject.x0), subject.noise, self.amount))
