"""Static thresholding: a prediction of the data does not leave the range of the data."""

from __future__ import annotations

from torch import Tensor

from diffusion.guidance.base import Guidance, with_x0
from diffusion.types import Cond, Denoiser, Prediction


class ClipGuidance(Guidance):
    """x_0 clipped to [low, high], eps to match (Ho et al. 2020, their code; Saharia et al. 2022, section 2.3).

    For images, not for latents, which have no such range.
    """

    def __init__(self, denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> None:
        if not low < high:
            raise ValueError(f"clipping takes low < high, got [{low}, {high}]; set guidance.clip.low and .high")
        super().__init__(denoiser)
        self.low = low
        self.high = high

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        prediction = self.denoiser(x, t, cond)
        return with_x0(self.schedule, prediction, prediction.x0.clamp(self.low, self.high), x, t)
