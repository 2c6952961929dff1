"""Augmentation: training images changed at random, and the network conditioned on how, so that samples are not.

Conditioned on what was done (``Cond.augment_labels``), a network learns the changed images as other distributions
beside the data's; in sampling there are no labels, which stands for "unchanged" (Karras et al. 2022, appendix F.2).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from diffusion.randomness import Randomness


class Augmentation(ABC):
    """A random change of training images.

    dim: how many labels; zeros stand for an unchanged image.
    """

    dim: int

    @abstractmethod
    def __call__(self, image: Tensor, randomness: Randomness) -> tuple[Tensor, Tensor]:
        """image (B, C, H, W) -> the changed images, and (B, dim) what was done to each, on the same device."""
