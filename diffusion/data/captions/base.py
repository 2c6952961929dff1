"""What draws the captions of training images."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion.randomness import CAPTIONS, KeyedRandomness


class Captions(ABC):
    """Captions of a split's samples that differ from epoch to epoch; a :class:`diffusion.data.split.Split` holds them
    beside its fixed ``texts``, which validation and sampling read."""

    def draw(self, rows: Tensor, seed: int, epoch: int) -> list[str]:
        """The captions of samples ``rows`` (B,) int64 in an epoch, each a function of (seed, epoch, row) alone."""
        return self.of(rows, KeyedRandomness(rows, seed=seed, stream=CAPTIONS, step=epoch))

    @abstractmethod
    def of(self, rows: Tensor, randomness: KeyedRandomness) -> list[str]:
        """The captions of samples ``rows`` (B,) int64, made with the draws of these samples."""
