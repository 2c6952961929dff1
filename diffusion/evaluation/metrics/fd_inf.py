"""Frechet distance without the bias of few samples."""

from __future__ import annotations

from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.frechet import extrapolated
from diffusion.evaluation.metrics.side import Side


class FDInfMetric(Metric):
    """``fd_inf``: the distance extrapolated to infinitely many samples (Chong & Forsyth 2020).

    seed: of the sub-samples.
    """

    better = "lower"
    real = "statistics"

    def __init__(self, seed: int = 2020) -> None:
        self.seed = seed

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        return {"fd_inf": extrapolated(generated.rows[layer], reference.statistics(layer), self.seed)}
