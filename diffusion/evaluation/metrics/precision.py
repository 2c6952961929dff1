"""Precision: the share of generated images that lie among real ones."""

from __future__ import annotations

from typing import Any

from torch_fidelity.metric_prc import prc_features_to_metric

from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.side import Side


class PrecisionMetric(Metric):
    """``precision``: the share of generated features in the balls around real ones that reach to their k-th nearest
    neighbour (Kynkaanniemi et al. 2019).

    neighbours: k.
    """

    better = "higher"
    name = "precision"

    def __init__(self, neighbours: int = 3) -> None:
        self.neighbours = neighbours

    def check(self, n: int) -> None:
        if n <= self.neighbours:
            raise ValueError(
                f"precision and recall need more than {self.neighbours} samples, got {n}; raise evaluation.num_samples"
            )

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        # Chunks of 10,000 rather than the whole distance matrix: 2 GB instead of 10 GB at 50,000 images.
        settings: dict[str, Any] = {"prc_neighborhood": self.neighbours, "save_cpu_ram": True, "verbose": False}
        pair = generated.rows[layer], reference.rows[layer]
        both = generated.once(
            ("precision and recall", layer, self.neighbours), lambda: prc_features_to_metric(*pair, **settings)
        )
        return {self.name: both[self.name]}
