"""Improved DDPM's objective: the simple loss for the mean, the bound for the variance."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Step, TimeDistribution, Weighting
from diffusion.objective.regression import RegressionObjective
from diffusion.objective.variational import bound, table_of
from diffusion.randomness import Randomness
from diffusion.types import Cond


class HybridObjective(RegressionObjective):
    """L_simple + vlb_weight L_vlb, the bound's gradient stopped at the mean (Nichol & Dhariwal 2021, eq. 16).

    L_vlb is the sum over the T steps, in bits per dimension, estimated by T times the term of one step.

    Args:
        vlb_weight: 0.001 in the paper.
        weighting, time_distribution, offset_noise, input_perturbation: see :class:`RegressionObjective`.

    Raises:
        ValueError: a model without a learned variance, or a schedule without a table (see :meth:`check`).
    """

    def __init__(
        self,
        weighting: Weighting,
        time_distribution: TimeDistribution,
        vlb_weight: float = 0.001,
        offset_noise: float = 0.0,
        input_perturbation: float = 0.0,
    ) -> None:
        super().__init__(weighting, time_distribution, offset_noise, input_perturbation)
        if not vlb_weight >= 0:
            raise ValueError(f"the bound's weight is 0 or above, got {vlb_weight}; set objective.vlb_weight")
        self.vlb_weight = vlb_weight

    def check(self, denoiser: NetworkDenoiser) -> None:
        super().check(denoiser)
        table_of(denoiser.schedule)
        if not denoiser.parameterization.learned_variance:
            raise ValueError(
                "the hybrid objective trains a learned variance and this model has none; "
                "set parameterization.learned_variance=true, or use objective=simple"
            )

    def __call__(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        cond: Cond,
        *,
        randomness: Randomness | None = None,
        step: Step | None = None,
    ) -> Loss:
        self.check(denoiser)
        noised = self.noised(denoiser, x0, randomness)
        output = denoiser.output(noised.x, noised.t, cond, (noised.alpha, noised.sigma))
        weight, mse = self.error(denoiser, output, x0, noised)
        prediction = denoiser.parameterization.decode(output, noised.x, noised.alpha, noised.sigma)
        fixed_mean = replace(prediction, x0=prediction.x0.detach(), eps=prediction.eps.detach())
        vb = bound(fixed_mean, denoiser.schedule, x0, noised.x, noised.t, "learned")
        total = weight * mse + self.vlb_weight * table_of(denoiser.schedule) * vb
        return self.finish(denoiser, total, {"mse": mse, "vb": vb}, noised, mse)
