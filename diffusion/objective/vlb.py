"""The full variational bound as a loss."""

from __future__ import annotations

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Times
from diffusion.objective.noising import Noising, squared_error
from diffusion.objective.variational import Variance, bound
from diffusion.types import Cond, Randomness


class VLB(Noising):
    """T times the bound's term at one random step: an estimate of L_vlb in bits per dimension, up to its constant prior
    term (Ho et al. 2020, eq. 5; table 2's "L"; Nichol & Dhariwal 2021, L_vlb with ``objective/times=importance``).

    Args:
        variance: of the reverse step: learned (with ``parameterization.learned_variance``), small or large.
        times: over the knots of a table; its draws weigh each step alike.
    """

    def __init__(self, times: Times, variance: Variance = "learned") -> None:
        super().__init__(times)
        self.variance = variance

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, cond: Cond, *, randomness: Randomness | None = None
    ) -> Loss:
        noised = self.noised(denoiser, x0, randomness)
        said = denoiser(noised.x, noised.t, cond)
        vb = bound(said, denoiser.schedule, x0, noised.x, noised.t, self.variance)
        mse = squared_error(said.eps, noised.eps)
        return self.finish(denoiser, (denoiser.schedule.steps or 1) * vb, {"mse": mse, "vb": vb}, noised)
