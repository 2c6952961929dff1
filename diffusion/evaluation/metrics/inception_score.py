"""Inception score."""

from __future__ import annotations

from torch_fidelity.metric_isc import isc_features_to_metric

from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.side import Side


class InceptionScoreMetric(Metric):
    """``is`` and ``is_std``: exp E KL(p(y | x) || p(y)) over random splits (Salimans et al. 2016).

    splits: over which mean and standard deviation are taken. seed: of the shuffle.
    """

    better = "higher"
    reads = "logits"
    real = None

    def __init__(self, splits: int = 10, seed: int = 2020) -> None:
        self.splits, self.seed = splits, seed

    def check(self, n: int) -> None:
        if n < self.splits:
            raise ValueError(
                f"the inception score is averaged over {self.splits} splits, which {n} samples cannot fill; "
                f"set evaluation.num_samples to {self.splits} or more, or evaluation.is_splits to {n} or fewer"
            )

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        score = isc_features_to_metric(generated.rows[layer], self.splits, True, self.seed)
        return {"is": score["inception_score_mean"], "is_std": score["inception_score_std"]}
