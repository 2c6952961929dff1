"""Between two images, in noise and in the space of a CLIP."""

from __future__ import annotations

from torch import Tensor

from diffusion.editing.base import Edit, Subject, slerp


class InterpolateEdit(Edit):
    """Samples from slerp(z_1, z_2, amount), z the noises that two images are inverted to, under the condition of
    slerp(e_1, e_2, amount) of their embeddings where the model draws with such (Ramesh et al. 2022, section 3.2). Each
    image is inverted with its own embedding, so that at 0 and 1 they come back, to the sampler's order, where the
    result has their ``source`` and no guidance.

    Args:
        amount: in [0, 1], from the first image to the second.
        source: what the images show, a text or a class; the null condition where ``None``.

    Raises:
        ValueError: an amount out of its range.
    """

    inverts = True
    images = None

    def __init__(self, amount: float = 0.5, source: str | int | None = None) -> None:
        if not 0 <= amount <= 1:
            raise ValueError(f"amount lies in [0, 1], got {amount}; set edit.amount")
        self.amount, self.source = amount, source

    def __call__(self, subject: Subject) -> Tensor:
        """Raises:
        ValueError: not two images.
        """
        if len(subject.images) != 2:
            raise ValueError(f"edit=interpolate goes from one image to another, got {len(subject.images)}; give two")
        first, second = (own.invert(own.x0) for own in (subject.of(0), subject.of(1)))
        if subject.embedded is not None:
            one, other = subject.embedded.images
            subject = subject.embedded_as(slerp(one, other, self.amount))
        return subject.again(slerp(first, second, self.amount))
