"""SDEdit: noise is added to the image and taken away again under another condition."""

from __future__ import annotations

from torch import Tensor

from diffusion.editing.base import Edit, MaskUse, Subject, check_fraction


class RestyleEdit(Edit):
    """x = alpha(t) x_0 + sigma(t) z at t = strength, then the usual samples from there (Meng et al. 2022, SDEdit).

    Args:
        strength: time in (0, 1] that sampling starts from: 1 forgets the image, 0.3 to 0.6 keeps its composition.
    """

    mask: MaskUse = "optional"

    def __init__(self, strength: float = 0.6) -> None:
        check_fraction("strength", strength)
        self.strength = strength

    def __call__(self, subject: Subject) -> Tensor:
        return subject.sample(subject.noise, (subject.x0, self.strength))
