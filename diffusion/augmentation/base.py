"""Augmentation: training images changed at random, and the network conditioned on how, so that samples are not.

Conditioned on what was done (``Cond.augment_labels``), a network learns the changed images as other distributions
beside the data's; in sampling there are no labels, which stands for "unchanged" (Karras et al. 2022, appendix F.2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffusion.randomness import Randomness


class Augmentation(ABC):
    """A random change of training images.

    dim: how many labels; zeros stand for an unchanged image. 0 where the network is not told.
    """

    dim: int

    @abstractmethod
    def __call__(self, image: Tensor, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        """image (B, C, H, W) -> the changed images, and (B, dim) what was done to each, on the same device; ``None``
        where the network is not told."""

    def batch(self, batch: Mapping[str, Any], randomness: Randomness) -> tuple[dict[str, Any], Tensor | None]:
        """A batch with its images changed, and what was done to each.

        Raises:
            ValueError: it has other columns of images, which would not be changed with them.
        """
        if "low_resolution" in batch:
            raise ValueError(
                f"{type(self).__name__} would change images and not their low-resolution images; use augmentation=none "
                "or augmentation=crop, or data without the column low_resolution, which is then made of the images"
            )
        image, labels = self(batch["image"], randomness)
        return {**batch, "image": image}, labels
