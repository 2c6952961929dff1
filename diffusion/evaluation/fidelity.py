"""Metrics from gathered rows, in torch-fidelity's own arithmetic, and the names that they go by.

A name carries the number of samples, and the extractor unless it is Inception: ``fid_50k``, ``fd_digits-cnn-v1_897``.
Only Inception's Frechet distance is called FID.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

log = logging.getLogger(__name__)

METRICS = ("fd", "is", "kid", "precision", "recall")


@dataclass(frozen=True)
class Protocol:
    """The numbers that metrics depend on; torch-fidelity's defaults."""

    is_splits: int = 10
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    neighbours: int = 3
    seed: int = 2020

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def name(metric: str, extractor: str, n: int) -> str:
    """The key of a metric over ``n`` samples: ``fid_50k``, ``kid_50k``, ``fd_digits-cnn-v1_897``."""
    number = f"{n // 1000}k" if n >= 1000 and n % 1000 == 0 else str(n)
    if extractor == "inception":
        return f"{'fid' if metric == 'fd' else metric}_{number}"
    return f"{metric}_{extractor}_{number}"


def check(metrics: Sequence[str], n: int, protocol: Protocol) -> None:
    """Whether N samples can give these metrics; called before any is drawn.

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
    generated: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    layers: Mapping[str, str],
    protocol: Protocol,
) -> dict[str, float]:
    """{metric: value} from rows {layer: (N, D) float32} of both sides; ``layers`` says which layer a metric reads.

    Raises:
        ValueError: rows that are not finite.
    """
    for side, rows in (("generated", generated), ("reference", reference)):
        for layer, values in rows.items():
            if values.is_floating_point() and not torch.isfinite(values).all():
                raise ValueError(f"the {side} pictures gave features that are not finite (layer {layer})")
    out: dict[str, float] = {}
    if "fd" in metrics:
        ours, theirs = generated[layers["fd"]], reference[layers["fd"]]
        if min(len(ours), len(theirs)) <= ours.shape[1]:
            log.warning(
                "a covariance of %d features from %d rows has no full rank: the Frechet distance is biased and not "
                "comparable with one over more samples; read KID, which is unbiased",
                ours.shape[1],
                min(len(ours), len(theirs)),
            )
        pair = fid_features_to_statistics(ours), fid_features_to_statistics(theirs)
        out["fd"] = fid_statistics_to_metric(*pair, verbose=False)["frechet_inception_distance"]
    if "is" in metrics:
        score = isc_features_to_metric(generated[layers["is"]], protocol.is_splits, True, protocol.seed)
        out["is"], out["is_std"] = score["inception_score_mean"], score["inception_score_std"]
    if "kid" in metrics:
        ours, theirs = generated[layers["kid"]], reference[layers["kid"]]
        size = min(protocol.kid_subset_size, len(ours), len(theirs))
        score = kid_features_to_metric(
            ours,
            theirs,
            kid_subsets=protocol.kid_subsets,
            kid_subset_size=size,
            rng_seed=protocol.seed,
            verbose=False,
        )
        out["kid"], out["kid_std"] = score["kernel_inception_distance_mean"], score["kernel_inception_distance_std"]
    if {"precision", "recall"} & set(metrics):
        score = prc_features_to_metric(
            generated[layers["precision"]],
            reference[layers["precision"]],
            prc_neighborhood=protocol.neighbours,
            save_cpu_ram=True,
            verbose=False,
        )
        out |= {metric: score[metric] for metric in ("precision", "recall") if metric in metrics}
    return out
