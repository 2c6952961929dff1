"""The shipped metrics by name, and all of an evaluation's computed from gathered rows, in torch-fidelity's arithmetic.

The covariance's eigenvalues depend on the number of BLAS threads in their last bit, and a launcher gives each of many
ranks fewer threads than one would have. Rank 0 therefore computes with as many threads as the machine has cores.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from threadpoolctl import threadpool_limits

from diffusion.evaluation.judge import Judge
from diffusion.evaluation.metrics.base import Metric
from diffusion.evaluation.metrics.clip_score import ClipScoreMetric
from diffusion.evaluation.metrics.colour import ColourMetric
from diffusion.evaluation.metrics.concept import ConceptMetric
from diffusion.evaluation.metrics.diversity import DiversityMetric
from diffusion.evaluation.metrics.fd import FDMetric
from diffusion.evaluation.metrics.fd_class import FDClassMetric
from diffusion.evaluation.metrics.fd_inf import FDInfMetric
from diffusion.evaluation.metrics.inception_score import InceptionScoreMetric
from diffusion.evaluation.metrics.kid import KIDMetric
from diffusion.evaluation.metrics.memorisation import MemorisationMetric
from diffusion.evaluation.metrics.precision import PrecisionMetric
from diffusion.evaluation.metrics.r_precision import RPrecisionMetric
from diffusion.evaluation.metrics.recall import RecallMetric
from diffusion.evaluation.metrics.sfd import SFDMetric
from diffusion.evaluation.metrics.side import Side

__all__ = ["METRICS", "Protocol", "Side", "check", "compute", "shipped"]

METRICS = ("fd", "sfd", "fd_inf", "fd_class", "is", "kid", "precision", "recall", "diversity", "memorisation",
           "clip_score", "r_precision", "colour", "concept")  # fmt: skip
"""In the order of a record."""


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


def shipped(
    names: Sequence[str], protocol: Protocol, clip: Judge | None = None, own: Sequence[str] = ()
) -> dict[str, Metric]:
    """The shipped metrics of these names, with the settings of ``protocol``, in the order of a record.

    clip: the judge of clip_score, r_precision and concept. own: names that are left out, as they are somebody's own
        metrics.

    Raises:
        ValueError: an unknown metric.
    """
    unknown = [name for name in names if name not in (*METRICS, *own)]
    if unknown:
        raise ValueError(
            f"evaluation.metrics lists some of {', '.join((*METRICS, *own))}, got {', '.join(unknown)}; "
            "a metric of your own is added by evaluation/metric=<its file in conf/evaluation/metric>"
        )
    makers = {
        "fd": FDMetric,
        "sfd": SFDMetric,
        "fd_inf": lambda: FDInfMetric(protocol.seed),
        "fd_class": FDClassMetric,
        "is": lambda: InceptionScoreMetric(protocol.is_splits, protocol.seed),
        "kid": lambda: KIDMetric(protocol.kid_subsets, protocol.kid_subset_size, protocol.seed),
        "precision": lambda: PrecisionMetric(protocol.neighbours),
        "recall": lambda: RecallMetric(protocol.neighbours),
        "diversity": DiversityMetric,
        "memorisation": MemorisationMetric,
        "clip_score": lambda: ClipScoreMetric(clip),
        "r_precision": lambda: RPrecisionMetric(clip),
        "colour": ColourMetric,
        "concept": lambda: ConceptMetric(clip),
    }
    return {name: makers[name]() for name in METRICS if name in names and name not in own}


def check(metrics: Mapping[str, Metric], n: int) -> None:
    """Refuses metrics that N samples cannot give; called before any is drawn.

    Raises:
        ValueError: no metric, or too few samples for one.
    """
    if not metrics:
        raise ValueError(f"evaluation.metrics lists some of {', '.join(METRICS)}, got none")
    if n < 2:
        raise ValueError(f"evaluation.num_samples is at least 2, got {n}")
    for metric in metrics.values():
        metric.check(n)


def compute(
    metrics: Mapping[str, Metric],
    generated: Side,
    reference: Side,
    layers: Mapping[str, str],
    held_out: Side | None = None,
) -> dict[str, dict[str, float]]:
    """{metric: {name: value}}; ``layers``: the layer that each metric reads; ``held_out``: real images outside the
    reference.

    Raises:
        ValueError: rows that are not finite.
    """
    with threadpool_limits(limits=os.cpu_count(), user_api="blas"):
        generated.check_finite("the images to score")
        reference.check_finite("the real images")
        return {name: metric(generated, reference, layers.get(name, ""), held_out) for name, metric in metrics.items()}
