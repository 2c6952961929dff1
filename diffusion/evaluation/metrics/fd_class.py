"""Frechet distance of each class."""

from __future__ import annotations

from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.frechet import by_class
from diffusion.evaluation.metrics.side import Side


class FDClassMetric(Metric):
    """``fd_class``, the mean distance over classes, ``fd_class_worst``, and each of up to 20."""

    better = "lower"
    labels = True

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        return by_class(generated.rows[layer], generated.labels, reference.rows[layer], reference.labels)
