"""Frechet distance of spatial features."""

from __future__ import annotations

from diffusion.evaluation.metrics.fd import FDMetric


class SFDMetric(FDMetric):
    """``sfd``: the distance on spatial features (Nash et al. 2021); sFID of Inception's."""

    reads = "spatial"
    name = "sfd"
