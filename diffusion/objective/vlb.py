"""The full variational bound as a loss."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Step, TimeDistribution
from diffusion.objective.noising import NoisingObjective, squared_error
from diffusion.objective.variational import Variance, bound, table_of
from diffusion.randomness import Randomness
from diffusion.types import Cond


class VLBObjective(NoisingObjective):
    """T times the bound's term at one random step: an estimate of L_vlb in bits per dimension, up to its constant prior
    term (Ho et al. 2020, eq. 5; table 2's "L"; Nichol & Dhariwal 2021, L_vlb with
    ``objective/time_distribution=importance``).

    Args:
        variance: of the reverse step: learned (with ``parameterization.learned_variance``), small or large.
        time_distribution: over the knots of a table; its draws weigh each step alike.
    """

    def __init__(self, time_distribution: TimeDistribution, variance: Variance = "learned") -> None:
        super().__init__(time_distribution)
        if variance not in get_args(Variance):
            raise ValueError(f"the variance is small, large or learned, got {variance!r}; set objective.variance")
        self.variance = variance

    def check(self, denoiser: NetworkDenoiser) -> None:
        super().check(denoiser)
        table_of(denoiser.schedule)
        if self.variance == "learned" and not denoiser.parameterization.learned_variance:
            raise ValueError(
                "the bound needs a learned variance and this model predicts none; "
                "set parameterization.learned_variance=true, or objective.variance=small or large"
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
        noised = self.noised(denoiser, x0, randomness)
        prediction = denoiser(noised.x, noised.t, cond)
        vb = bound(prediction, denoiser.schedule, x0, noised.x, noised.t, self.variance)
        mse = squared_error(prediction.eps, noised.eps)
        return self.finish(denoiser, table_of(denoiser.schedule) * vb, {"mse": mse, "vb": vb}, noised)
