"""A second model for the least noisy steps."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.guidance.base import Guidance, coefficients, placed, to_other
from diffusion.types import Cond, Denoiser, Prediction, expand


class ExpertGuidance(Guidance):
    """Where sigma / alpha is below a bound another model predicts: one that was trained, or tuned, for those levels
    (Balaji et al. 2022, eDiff-I; Karlo's upsampler takes its last step so).

    It makes its own condition of the columns that the main model's was made of, and sees the same data in the same
    noise, whatever its own schedule and target.

    Args:
        model: a model of the same data.
        below: the bound in sigma / alpha; 0 is off.

    Raises:
        ValueError: a bound below 0.
    """

    off = {"below": 0.0}  # noqa: RUF012 - of the base

    def __init__(self, denoiser: Denoiser, model: Denoiser, below: float = 0.5) -> None:
        super().__init__(denoiser)
        if not 0 <= below < float("inf"):
            raise ValueError(f"below is sigma / alpha of at least 0, got {below}; set guidance.expert.below")
        self.model = model
        self.below = below

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        alpha, sigma = coefficients(self.schedule, x, t)
        if not isinstance(alpha, Tensor) or not isinstance(sigma, Tensor):
            return self._expert(x, t, cond) if sigma < self.below * alpha else self.denoiser(x, t, cond)
        where = sigma < self.below * alpha
        if not where.any():
            return self.denoiser(x, t, cond)
        if where.all():
            return self._expert(x, t, cond)
        main, expert, where = self.denoiser(x, t, cond), self._expert(x, t, cond), expand(where, x)
        return Prediction(
            torch.where(where, expert.x0, main.x0), torch.where(where, expert.eps, main.eps), main.var_mix
        )

    def _expert(self, x: Tensor, t: Tensor | float, cond: Cond) -> Prediction:
        found: Prediction = placed(self.model, x)(*to_other(self.schedule, self.model.schedule, x, t), cond)
        if found.x0.shape != x.shape:
            raise ValueError(
                f"the expert predicts {tuple(found.x0.shape[1:])} and the main model {tuple(x.shape[1:])}; "
                "guidance.expert.model is a run on the same data"
            )
        return found
