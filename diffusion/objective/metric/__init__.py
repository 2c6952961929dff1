"""Metrics: how far two images are from each other, as a loss."""

from diffusion.objective.metric.base import Metric
from diffusion.objective.metric.lpips import LPIPSMetric
from diffusion.objective.metric.pseudo_huber import PseudoHuberMetric
from diffusion.objective.metric.squared import SquaredMetric

__all__ = ["LPIPSMetric", "Metric", "PseudoHuberMetric", "SquaredMetric"]
