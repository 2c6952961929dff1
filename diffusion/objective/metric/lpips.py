"""A distance of a frozen network's features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffusion.guidance.base import placed
from diffusion.objective.metric.base import Metric


class LPIPSMetric(Metric):
    """The perceptual distance of two images, enlarged before where they are small (Zhang et al. 2018; Song et al. 2023:
    their code has 224 pixels for images below 256).

    Args:
        network: images (B, C, H, W) in [-1, 1], twice -> (B,); frozen.
        resolution: height and width to which smaller images are enlarged, bilinearly; as they are where ``None``.

    Raises:
        ValueError: no network, or a resolution below 1; images that are not (B, 1 or 3, H, W).
    """

    def __init__(self, network: nn.Module | None, resolution: int | None = 224) -> None:
        if network is None:
            raise ValueError("a perceptual distance needs a network; set objective.metric.network.extractor=lpips")
        if resolution is not None and not 1 <= resolution < math.inf:
            raise ValueError(f"resolution is a number of pixels or null, got {resolution}; set objective.metric")
        self.network = network
        self.resolution = resolution

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        if a.ndim != 4 or a.shape[1] not in (1, 3):
            raise ValueError(
                f"LPIPS compares images (B, 1 or 3, H, W), got {tuple(a.shape)}; use objective/metric=pseudo_huber"
            )
        distance: Tensor = placed(self.network, a)(self._enlarged(a), self._enlarged(b))
        return distance

    def _enlarged(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.resolution is None or max(x.shape[-2:]) >= self.resolution:
            return x
        size = (self.resolution, self.resolution)
        return nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
