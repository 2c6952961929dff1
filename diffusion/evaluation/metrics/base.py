"""The bases of metrics: of features, and of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion.describe import describe
from diffusion.evaluation.metrics.side import Side
from diffusion.evaluation.naming import Better


class Metric(ABC):
    """A number, or several, of the features of generated and of real images."""

    better: ClassVar[Better | Mapping[str, Better]]
    """``lower`` or ``higher``; of each number by its name, where they differ or one of them has no better."""
    reads: ClassVar[Literal["features", "spatial", "logits"] | None] = "features"
    """Which layer of the extractor; ``None`` where it reads no features."""
    real: ClassVar[Literal["rows", "statistics"] | None] = "rows"
    """What it needs of the reference: the features of each image, their mean and covariance, or nothing."""
    labels: ClassVar[bool] = False
    """Does it need classes on both sides?"""
    held_out: ClassVar[bool] = False
    """Does it need real images outside the reference, which then is the training split?"""

    def check(self, n: int) -> None:  # noqa: B027 - most metrics take any number of samples
        """Raises:
        ValueError: ``n`` samples are too few; called before any is drawn.
        """

    @abstractmethod
    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        """{name: value}; a standard deviation's name ends in ``_std``.

        layer: whose rows (N, D) both sides have. held_out: real images outside the reference, where there are any.
        """

    def direction(self, name: str) -> Better | None:
        """Of one of the names that a call gives."""
        if not isinstance(self.better, str):
            return self.better.get(name)
        return None if name.endswith("_std") else self.better

    def describe(self) -> dict[str, Any]:
        """Its class and settings, for the record."""
        return describe(self)


class ImageMetric(Metric):
    """A metric of the images themselves: the mean over images of what :meth:`rows` gives, where a call does not make
    something else of it."""

    reads = None
    real = None
    name: ClassVar[str]
    """Of the number, and of the rows."""
    texts: ClassVar[bool] = False
    """Does it need captions?"""
    column: str = "text"
    """Of the samples: what :meth:`rows` compares images with, their captions or another column of the data."""

    def load(self, device: torch.device) -> None:
        """Called once before images come."""

    @abstractmethod
    def rows(self, images: Tensor, texts: Any) -> Tensor:
        """uint8 (B, C, H, W), and B captions, or values of :attr:`column`, where there are any -> (B,) or (B, D)
        float32 on the CPU."""

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        return {self.name: float(generated.rows[self.name].double().mean())}
