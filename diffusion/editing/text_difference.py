"""The difference of two texts, added to an image in the space of a CLIP."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from diffusion.editing.base import Edit, Subject, check_fraction, slerp


class TextDifferenceEdit(Edit):
    """Samples from the noise that the image is inverted to, with the embedding slerp(e, d, amount), where d is
    e_text - e_source at unit length (Ramesh et al. 2022, section 3.3). For models that draw with the embeddings of a
    CLIP.

    Args:
        amount: in (0, 1]; up to 0.25 to 0.5 in the paper.
        source: a text that says what the image shows; the empty text where ``None``.

    Raises:
        ValueError: an amount out of its range.
    """

    inverts = True

    def __init__(self, amount: float = 0.35, source: str | None = None) -> None:
        check_fraction("amount", amount)
        self.amount, self.source = amount, source

    def __call__(self, subject: Subject) -> Tensor:
        """Raises:
        ValueError: a model without embeddings, or two texts that are one.
        """
        space = subject.embedded
        if space is None:
            raise ValueError(
                "edit=text_difference moves the embedding of an image, and this model draws with none; use a run with "
                "conditioner=unclip, or edit=invert"
            )
        difference = space.text - space.source_text
        if not bool(difference.any(dim=1).all()):
            raise ValueError("edit=text_difference goes from edit.source to text, and these are the same; change one")
        noise = subject.invert(subject.x0)
        return subject.embedded_as(slerp(space.images[0], normalize(difference, dim=1), self.amount)).again(noise)
