"""Static thresholding: a prediction of the data does not leave the range of the data."""

from __future__ import annotations

from torch import Tensor

from diffusion.guidance.base import Guidance, with_x0
from diffusion.types import Cond, Denoiser, Prediction


class ClipGuidance(Guidance):
    """x_0 clipped to [low, high], eps to match (Ho et al. 2020, their code; Saharia et al. 2022, section 2.3).

    For images, not for latents, which have no such range.

    keep_eps: eps stays the denoiser's, as in DDIM of diffusers, instead of matching the clipped x_0.
    """

    def __init__(self, denoiser: Denoiser, low: float = -1.0, high: float = 1.0, keep_eps: bool = False) -> None:
        if not low < high:
            raise ValueError(f"clipping takes low < high, got [{low}, {high}]; set guidance.clip.low and .high")
        super().__init__(denoiser)
        self.low = low
        self.high = high
        self.keep_eps = keep_eps

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        prediction = self.denoiser(x, t, cond)
        clipped = prediction.x0.clamp(self.low, self.high)
        if self.keep_eps:
            return Prediction(clipped, prediction.eps, prediction.var_mix)
        return with_x0(self.schedule, prediction, clipped, x, t)
