"""Dynamic thresholding: a prediction of the data that leaves its range is compressed, not cut."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.guidance.base import Guidance, with_x0
from diffusion.types import Cond, Denoiser, Prediction


class DynamicThresholdGuidance(Guidance):
    """x_0 clipped to its own percentile s >= 1 of |x_0| and divided by s (Saharia et al. 2022, section 2.3).

    For images in [-1, 1] under strong guidance, not for latents.

    percentile: of a sample's values, 0.995 in the paper.
    highest: the largest s.
    keep_eps: eps stays the denoiser's, instead of matching the compressed x_0.
    """

    def __init__(
        self, denoiser: Denoiser, percentile: float = 0.995, highest: float = 100.0, keep_eps: bool = False
    ) -> None:
        if not 0 < percentile <= 1 or not highest >= 1:
            raise ValueError(
                f"dynamic thresholding takes a percentile in (0, 1] and highest >= 1, got {percentile} and {highest}; "
                "set guidance.dynamic_threshold"
            )
        super().__init__(denoiser)
        self.percentile = percentile
        self.highest = highest
        self.keep_eps = keep_eps

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        prediction = self.denoiser(x, t, cond)
        values = prediction.x0.flatten(1).abs().float()
        s = torch.quantile(values, self.percentile, dim=1).clamp(1, self.highest).to(prediction.x0)
        s = s.reshape(-1, *[1] * (x.ndim - 1))
        compressed = prediction.x0.clamp(-s, s) / s
        if self.keep_eps:
            return Prediction(compressed, prediction.eps, prediction.var_mix)
        return with_x0(self.schedule, prediction, compressed, x, t)
