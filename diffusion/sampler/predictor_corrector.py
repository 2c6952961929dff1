"""Predictor-corrector: Langevin steps at each level before the step to the next."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusion.sampler.base import Denoise
from diffusion.sampler.reverse_diffusion import ReverseDiffusionSampler
from diffusion.schedule.base import Level
from diffusion.types import RandnLike, Spacing, expand


class PredictorCorrectorSampler(ReverseDiffusionSampler):
    """Langevin correction, then reverse diffusion (Song et al. 2021, score SDE, Algorithms 2-5).

        x <- x + e score + sqrt(2 e) z,   e = 2 a^2 (snr |z| / |score|)^2,   a = alpha_t / alpha_s

    Norms are taken for each sample, where the paper averages them over the batch: sample i is then its own. In few
    dimensions, where norms fluctuate, that biases the samples.

    Args:
        corrections: Langevin steps, and calls, at each level; 0 leaves reverse diffusion.
        snr: r of the paper, 0.16 there for CIFAR-10.

    Raises:
        ValueError: a negative number of corrections, or an snr that is not above 0.
    """

    def __init__(
        self, steps: int = 500, spacing: Spacing | None = None, corrections: int = 1, snr: float = 0.16
    ) -> None:
        super().__init__(steps, spacing)
        if corrections < 0 or not snr > 0:
            raise ValueError(
                f"corrections are at least 0 and snr is above 0, got {corrections} and {snr}; "
                "set sampler.corrections and sampler.snr"
            )
        self.corrections = corrections
        self.snr = snr

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        for _ in range(self.corrections if cur.alpha > 0 else 0):
            score, z = denoise(x, cur.t).eps * (-1 / cur.sigma), randn_like(x)
            ratio = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1).clamp_min(1e-12)
            size = 2 * (cur.alpha / nxt.alpha * self.snr * ratio) ** 2
            x = x + expand(size, x) * score + expand((2 * size).sqrt(), x) * z
        return super().step(denoise, x, cur, nxt, state, randn_like)
