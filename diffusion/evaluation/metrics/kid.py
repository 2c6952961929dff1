"""Kernel distance."""

from __future__ import annotations

from torch_fidelity.metric_kid import kid_features_to_metric

from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.side import Side


class KIDMetric(Metric):
    """``kid`` and ``kid_std``: an unbiased squared MMD with the kernel (<f, g> / D + 1)^3 (Binkowski et al. 2018).

    subsets, subset_size: over which mean and standard deviation are taken; the size is cut to the smaller side, which
    leaves the estimate unbiased. seed: of the subsets.
    """

    better = "lower"

    def __init__(self, subsets: int = 100, subset_size: int = 1000, seed: int = 2020) -> None:
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        rows, real = generated.rows[layer], reference.rows[layer]
        size = min(self.subset_size, len(rows), len(real))
        settings = {"kid_subsets": self.subsets, "kid_subset_size": size, "rng_seed": self.seed}
        score = kid_features_to_metric(rows, real, **settings, verbose=False)
        return {"kid": score["kernel_inception_distance_mean"], "kid_std": score["kernel_inception_distance_std"]}
