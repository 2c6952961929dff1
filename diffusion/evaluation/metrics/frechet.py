r"""Frechet distance between Gaussians fitted to features: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

Heusel et al. 2017, eq. 6, as torch-fidelity computes it: the trace of the root from the eigenvalues of S1 S2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

POINTS = 15
"""Sizes of the sub-samples that the distance is extrapolated from."""


@dataclass(frozen=True)
class Statistics:
    """mu (D,) and sigma (D, D) of features; n: their number, ``None`` where a file does not hold it."""

    mu: np.ndarray
    sigma: np.ndarray
    n: int | None = None

    @classmethod
    def of(cls, rows: Tensor) -> Statistics:
        """Of rows (N, D). torch-fidelity's mean of float32 rows is a float32."""
        found = fid_features_to_statistics(rows)
        return cls(found["mu"], found["sigma"], len(rows))


def frechet(one: Statistics, other: Statistics) -> float:
    """The squared distance; rounding can make it slightly negative where there are fewer images than features.

    Raises:
        ValueError: features of different width.
    """
    if one.mu.shape != other.mu.shape:
        raise ValueError(
            f"statistics of {len(one.mu)} features cannot be compared with statistics of {len(other.mu)}; "
            "they come from different extractors or layers"
        )
    # torch-fidelity requires one dtype; files of other projects hold float64 or float32 means.
    mus = (one.mu, other.mu)
    if one.mu.dtype != other.mu.dtype:
        mus = (one.mu.astype(np.float64), other.mu.astype(np.float64))
    pair = [{"mu": mu, "sigma": np.asarray(s.sigma, np.float64)} for mu, s in zip(mus, (one, other), strict=True)]
    return float(fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"])


def extrapolated(rows: Tensor, reference: Statistics, seed: int) -> float:
    """The distance at infinitely many samples: the intercept of a line in 1 / n (Chong & Forsyth 2020).

    15 sub-samples of the generated rows (N, D), n from N / 10 to N, drawn with ``seed``; the reference stays whole.
    The line assumes that n exceeds D.
    """
    random = np.random.RandomState(seed)
    sizes = np.unique(np.linspace(max(2, len(rows) // 10), len(rows), POINTS).round().astype(int))
    distances = []
    for n in sizes:
        chosen = torch.from_numpy(random.permutation(len(rows))[:n])
        distances.append(frechet(Statistics.of(rows[chosen]), reference))
    if len(sizes) == 1:
        return distances[0]
    return float(np.polynomial.Polynomial.fit(1 / sizes, distances, 1).convert().coef[0])


def by_class(rows: Tensor, labels: Tensor | None, real: Tensor, real_labels: Tensor | None) -> dict[str, float]:
    """``fd_class``, the mean over classes, ``fd_class_worst``, and ``fd_class_<k>`` for each class up to 20 of them.

    Classes with fewer than two images on either side are left out.

    Raises:
        ValueError: a side without labels, or no class with two images on both sides.
    """
    if labels is None or real_labels is None:
        raise ValueError(
            "a distance for each class needs labels on both sides: a class-conditional model, or images with labels; "
            "leave fd_class out of evaluation.metrics"
        )
    found = {}
    for k in real_labels.unique().tolist():
        ours, theirs = rows[labels == k], real[real_labels == k]
        if min(len(ours), len(theirs)) >= 2:
            found[k] = frechet(Statistics.of(ours), Statistics.of(theirs))
    if not found:
        raise ValueError(
            "no class has two generated and two real images; raise evaluation.num_samples or leave fd_class out of "
            "evaluation.metrics"
        )
    each = {f"fd_class_{k}": value for k, value in found.items()} if len(found) <= 20 else {}
    return {"fd_class": float(np.mean(list(found.values()))), "fd_class_worst": max(found.values()), **each}
