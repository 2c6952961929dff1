"""Several captions an image, of which each epoch reads one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffusion.data.captions.base import Captions
from diffusion.errors import DataError
from diffusion.randomness import KeyedRandomness


class SeveralCaptions(Captions):
    """One of a sample's captions in each epoch, all equally likely, as trainings on COCO draw them.

    Args:
        texts: the captions of each sample, one or more.

    Raises:
        DataError: a sample without a caption.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        if (lacking := next((row for row, own in enumerate(texts) if not own), None)) is not None:
            raise DataError(f"image {lacking} has no caption; give every image one or more, or leave it out")
        self.texts = texts

    def of(self, rows: Tensor, randomness: KeyedRandomness) -> list[str]:
        drawn = zip(rows.tolist(), randomness.rand().tolist(), strict=True)
        return [self.texts[row][int(u * len(self.texts[row]))] for row, u in drawn]
