"""One of the two sets of images that a metric compares, as rows of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from diffusion.evaluation.metrics.frechet import Statistics
from diffusion.evaluation.metrics.nearest import nearest

T = TypeVar("T")


@dataclass
class Side:
    """Images as rows: {layer: (N, D) float32}, with the labels (N,) and N captions where there are any.

    ``given`` are statistics that came without rows.
    """

    rows: Mapping[str, Tensor]
    labels: Tensor | None = None
    given: Mapping[str, Statistics] | None = None
    nearest: tuple[Tensor, Tensor] | None = None
    texts: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self._known: dict[str, Statistics] = dict(self.given or {})
        self._shared: dict[tuple[Any, ...], Any] = {}

    def statistics(self, layer: str) -> Statistics:
        """Mean and covariance of a layer, computed once."""
        if layer not in self._known:
            self._known[layer] = Statistics.of(self.rows[layer])
        return self._known[layer]

    def to_nearest(self, layer: str, reference: Side) -> tuple[Tensor, Tensor]:
        """Distance to, and number of, the nearest reference image of each, computed once."""
        if self.nearest is None:
            self.nearest = nearest(self.rows[layer], reference.rows[layer])
        return self.nearest

    def once(self, name: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What ``make`` gives, computed once under that name: for metrics that share a computation."""
        if name not in self._shared:
            self._shared[name] = make()
        return cast(T, self._shared[name])

    def check_finite(self, what: str) -> None:
        for layer, rows in self.rows.items():
            if not torch.isfinite(rows).all():
                raise ValueError(f"{what} gave features that are not finite (layer {layer}); look at the images")
