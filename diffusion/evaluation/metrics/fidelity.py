"""Metrics from gathered rows, in torch-fidelity's own arithmetic.

The covariance's eigenvalues depend on the number of BLAS threads in their last bit, and a launcher gives each of many
ranks fewer threads than one would have. Rank 0 therefore computes with as many threads as the machine has cores.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from diffusion.evaluation.metrics.frechet import Statistics, by_class, extrapolated, frechet
from diffusion.evaluation.metrics.memorisation import memorisation, nearest

log = logging.getLogger(__name__)

METRICS = ("fd", "sfd", "fd_inf", "fd_class", "is", "kid", "precision", "recall", "memorisation", "clip_score")
FRECHET = ("fd", "sfd", "fd_inf", "is")
"""The metrics that need only mean and covariance of the real images."""


@dataclass(frozen=True)
class Protocol:
    """The settings that metrics depend on; the defaults are torch-fidelity's.

    kid_subset_size: cut to the smaller side where that has fewer images (the estimate stays unbiased).
    """

    is_splits: int = 10
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    neighbours: int = 3
    seed: int = 2020

    def describe(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Side:
    """Images as rows: {layer: (N, D) float32}, with the labels (N,) where there are any.

    ``given`` are statistics that came without rows.
    """

    rows: Mapping[str, Tensor]
    labels: Tensor | None = None
    given: Mapping[str, Statistics] | None = None
    nearest: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        self._known: dict[str, Statistics] = dict(self.given or {})

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

    def check_finite(self, what: str) -> None:
        for layer, rows in self.rows.items():
            if not torch.isfinite(rows).all():
                raise ValueError(f"{what} gave features that are not finite (layer {layer}); look at the images")


def check(metrics: Sequence[str], n: int, protocol: Protocol) -> None:
    """Refuses metrics that N samples cannot give; called before any is drawn.

    Raises:
        ValueError: an unknown metric, or too few samples for one.
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"evaluation.metrics lists some of {', '.join(METRICS)}, got {', '.join(unknown) or 'none'}")
    if n < 2:
        raise ValueError(f"evaluation.num_samples is at least 2, got {n}")
    if "is" in metrics and n < protocol.is_splits:
        raise ValueError(
            f"the inception score is averaged over {protocol.is_splits} splits, which {n} samples cannot fill; "
            f"set evaluation.num_samples to {protocol.is_splits} or more, or evaluation.is_splits to {n} or fewer"
        )
    if {"precision", "recall"} & set(metrics) and n <= protocol.neighbours:
        raise ValueError(
            f"precision and recall need more than {protocol.neighbours} samples, got {n}; raise evaluation.num_samples"
        )


def compute(
    metrics: Sequence[str],
    generated: Side,
    reference: Side,
    layers: Mapping[str, str],
    protocol: Protocol,
    held_out: Side | None = None,
) -> dict[str, float]:
    """{metric: value}; ``layers``: the layer that each metric reads; ``held_out``: real images outside the reference.

    Raises:
        ValueError: rows that are not finite.
    """
    with threadpool_limits(limits=os.cpu_count(), user_api="blas"):
        return _compute(metrics, generated, reference, layers, protocol, held_out)


def _compute(
    metrics: Sequence[str],
    generated: Side,
    reference: Side,
    layers: Mapping[str, str],
    protocol: Protocol,
    held_out: Side | None,
) -> dict[str, float]:
    generated.check_finite("the images to score")
    reference.check_finite("the real images")
    out: dict[str, float] = {}
    for metric in ("fd", "sfd"):
        if metric in metrics:
            ours, theirs = generated.statistics(layers[metric]), reference.statistics(layers[metric])
            _warn_of_rank(ours, theirs)
            out[metric] = frechet(ours, theirs)
    if "fd_inf" in metrics:
        layer = layers["fd"]
        out["fd_inf"] = extrapolated(generated.rows[layer], reference.statistics(layer), protocol.seed)
    if "fd_class" in metrics:
        layer = layers["fd"]
        out |= by_class(generated.rows[layer], generated.labels, reference.rows[layer], reference.labels)
    if "is" in metrics:
        score = isc_features_to_metric(generated.rows[layers["is"]], protocol.is_splits, True, protocol.seed)
        out |= {"is": score["inception_score_mean"], "is_std": score["inception_score_std"]}
    if "kid" in metrics:
        rows, real = generated.rows[layers["kid"]], reference.rows[layers["kid"]]
        size = min(protocol.kid_subset_size, len(rows), len(real))
        settings = {"kid_subsets": protocol.kid_subsets, "kid_subset_size": size, "rng_seed": protocol.seed}
        score = kid_features_to_metric(rows, real, **settings, verbose=False)
        out |= {"kid": score["kernel_inception_distance_mean"], "kid_std": score["kernel_inception_distance_std"]}
    if {"precision", "recall"} & set(metrics):
        # Chunks of 10,000 rather than the whole distance matrix: 2 GB instead of 10 GB at 50,000 images.
        settings = {"prc_neighborhood": protocol.neighbours, "save_cpu_ram": True, "verbose": False}
        layer = layers["precision"]
        score = prc_features_to_metric(generated.rows[layer], reference.rows[layer], **settings)
        out |= {metric: score[metric] for metric in ("precision", "recall") if metric in metrics}
    if "memorisation" in metrics and held_out is not None:
        layer = layers["fd"]
        out |= memorisation(*(side.to_nearest(layer, reference)[0] for side in (generated, held_out)))
    if "clip_score" in metrics:
        out["clip_score"] = float(generated.rows["clip_score"].double().mean())
    return out


def _warn_of_rank(ours: Statistics, theirs: Statistics) -> None:
    n = min(value for value in (ours.n, theirs.n) if value is not None)
    if n <= len(ours.mu):
        log.warning(
            "a covariance of %d features from %d images has no full rank: the Frechet distance is biased, and not "
            "comparable with one over more samples; read KID, which is unbiased",
            len(ours.mu),
            n,
        )
