"""Frechet distance: Gaussians fitted to features."""

from __future__ import annotations

import logging

from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.frechet import Statistics, frechet
from diffusion.evaluation.metrics.side import Side

log = logging.getLogger(__name__)


class FDMetric(Metric):
    """``fd``: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017, eq. 6); FID of Inception's features."""

    better = "lower"
    real = "statistics"
    name = "fd"

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        ours, theirs = generated.statistics(layer), reference.statistics(layer)
        _warn_of_rank(ours, theirs)
        return {self.name: frechet(ours, theirs)}


def _warn_of_rank(ours: Statistics, theirs: Statistics) -> None:
    n = min(value for value in (ours.n, theirs.n) if value is not None)
    if n <= len(ours.mu):
        log.warning(
            "a covariance of %d features from %d images has no full rank: the Frechet distance is biased, and not "
            "comparable with one over more samples; read KID, which is unbiased",
            len(ours.mu),
            n,
        )
