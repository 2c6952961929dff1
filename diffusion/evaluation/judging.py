"""What metrics with a judge are asked before samples are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffusion.evaluation.features.extractor import Indexed
from diffusion.evaluation.metrics.judged import JudgedMetric
from diffusion.evaluation.reference import Data
from diffusion.pipeline.keyed import KeyedPipeline


def check_judged(
    metrics: Sequence[JudgedMetric],
    samples: KeyedPipeline | Indexed,
    data: Data | None,
    texts: Sequence[str] | None,
) -> None:
    """metrics: their judges are loaded. texts: captions of the samples (:func:`texts_of`).

    Raises:
        ValueError: samples without captions, or a judge that does not read these images or cannot judge these samples.
    """
    record: Mapping[str, Any] = {}
    images: Any = samples
    if isinstance(samples, KeyedPipeline):
        record = samples.describe() if metrics else {}
        images = None if data is None else data.split("test").images
    for metric in metrics:
        if texts is None:
            raise ValueError(f"{metric.name} needs captions, and there are none; leave it out of evaluation.metrics")
        metric.check_samples(None if images is None else images.shape[1:], texts, record)


def texts_of(samples: KeyedPipeline | Indexed, n: int, given: Sequence[str] | None = None) -> Sequence[str] | None:
    """The captions of samples; ``None`` where they have none. given: those of images."""
    if not isinstance(samples, KeyedPipeline):
        return given
    return samples.texts(torch.arange(n)) if samples.columns.get("text") else None
