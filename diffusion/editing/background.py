"""Another background: the subject is kept, everything around it is drawn anew."""

from __future__ import annotations

from torch import Tensor

from diffusion.editing.base import MaskUse, Subject
from diffusion.editing.diffedit import check_difference, difference
from diffusion.editing.inpaint import InpaintEdit


class BackgroundEdit(InpaintEdit):
    """Inpaints all but the subject. The mask given covers the background; where there is none, the subject is where
    predictions under ``source`` and under the null condition differ (the mask of DiffEdit, Couairon et al. 2023).

    Args:
        source: what the subject is, a text or a class, to find it by.
        noise_level, draws, threshold: see :class:`diffusion.editing.diffedit.DiffEdit`.
        strength, repeats, jump_length: see :class:`InpaintEdit`.
    """

    mask: MaskUse = "optional"

    def __init__(
        self,
        source: str | int | None = None,
        strength: float = 1.0,
        repeats: int = 10,
        jump_length: int = 10,
        noise_level: float = 0.5,
        draws: int = 10,
        threshold: float = 0.5,
    ) -> None:
        super().__init__(strength, repeats, jump_length)
        check_difference(noise_level, draws, threshold)
        self.source, self.noise_level, self.draws, self.threshold = source, noise_level, draws, threshold

    def found(self, subject: Subject) -> Tensor:
        """Raises:
        ValueError: neither a mask nor what the subject is.
        """
        if self.source is None or subject.source.null is None:
            raise ValueError(
                "edit=background keeps the subject: give a mask that covers the background, or name the subject "
                "with edit.source=... where the model has a null condition"
            )
        return 1 - difference(
            subject, subject.source, subject.source.drop(), self.noise_level, self.draws, self.threshold
        )

    def __call__(self, subject: Subject) -> Tensor:
        return super().__call__(subject if subject.mask is not None else subject.masked(self.found(subject)))
