"""What every CLIP gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Clip(nn.Module, ABC):
    """Images and texts as vectors of unit length in one space (Radford et al. 2021): their cosine is their
    product.

    dim: D, the width of the space. sha256: of the weights; ``None`` while they are trained.
    """

    dim: int
    sha256: str | None = None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @abstractmethod
    def image(self, image: Tensor) -> Tensor:
        """(B, C, H, W), uint8 or in [-1, 1] -> (B, D) float32.

        Raises:
            ValueError: images of another shape than it reads.
        """

    @abstractmethod
    def text(self, texts: Sequence[str]) -> Tensor:
        """B texts -> (B, D) float32. The vector of a text does not depend on the texts beside it."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Which one it is, in plain values, for the record of a score."""


def scaled(image: Tensor) -> Tensor:
    """uint8 images in [-1, 1], as data are; others as they are."""
    return image.float() / 127.5 - 1 if image.dtype == torch.uint8 else image


def unit(vectors: Tensor) -> Tensor:
    """(B, D) -> the same directions at unit length, in float32."""
    return nn.functional.normalize(vectors.float(), dim=1)
