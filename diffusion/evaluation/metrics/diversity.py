"""Diversity: how far samples are from one another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.side import Side


def mean_distance(rows: Tensor, chunk: int = 1024) -> float:
    """Mean Euclidean distance over the N (N - 1) / 2 pairs of rows (N, D), N at least 2.

    Differences and sums are in double precision and in a fixed order, without |a|^2 + |b|^2 - 2 ab, which would lose
    small distances; chunk: rows whose distances are in memory at once.
    """
    rows, sums = rows.double(), []
    for start in range(0, len(rows), chunk):
        some = rows[start : start + chunk]
        distances = torch.cdist(some, rows[start:], compute_mode="donot_use_mm_for_euclid_dist")
        sums += distances.triu(1).sum(1).tolist()
    return math.fsum(sums) / math.comb(len(rows), 2)


def by_caption(rows: Tensor, texts: Sequence[str]) -> float | None:
    """Mean over captions of :func:`mean_distance` of the rows (N, D) that share it; ``None`` where a caption has one
    row only."""
    groups: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        groups.setdefault(text, []).append(i)
    if min(map(len, groups.values())) < 2:
        return None
    return math.fsum(mean_distance(rows[group]) for group in groups.values()) / len(groups)


class DiversityMetric(Metric):
    """``diversity``: the mean Euclidean distance between the features of two samples. ``diversity_per_caption``: of two
    samples of one caption, averaged over captions, where each caption has several samples.

    The second is what Ramesh et al. 2022, section 5.3, asked people about: grids of samples of one caption, at equal
    guidance. The first contains the distance between captions too. Neither is better higher or lower: noise is diverse.
    """

    better = {}  # noqa: RUF012 - read only
    real = None

    def __call__(self, generated: Side, reference: Side, layer: str, held_out: Side | None = None) -> dict[str, float]:
        rows = generated.rows[layer]
        found = {"diversity": mean_distance(rows)}
        if generated.texts is not None and (within := by_caption(rows, generated.texts)) is not None:
            found["diversity_per_caption"] = within
        return found
