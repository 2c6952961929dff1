"""Recall: the share of real images that lie among generated ones."""

from __future__ import annotations

from diffusion.evaluation.metrics.precision import PrecisionMetric


class RecallMetric(PrecisionMetric):
    """``recall``: the share of real features in the balls around generated ones (Kynkaanniemi et al. 2019)."""

    name = "recall"
