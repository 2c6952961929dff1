"""Metrics of gathered rows, one file each, in torch-fidelity's arithmetic; and statistics files of other projects."""

from diffusion.evaluation.metrics.base import ImageMetric, Metric
from diffusion.evaluation.metrics.side import Side

__all__ = ["ImageMetric", "Metric", "Side"]
