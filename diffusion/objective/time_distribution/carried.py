"""The noise levels of one schedule, trained on another."""

from __future__ import annotations

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import TimeDistribution
from diffusion.objective.time_distribution.draw import Coupling, check_coupling, on_knots, uniforms
from diffusion.randomness import Randomness
from diffusion.schedule.base import Schedule


class CarriedTimeDistribution(TimeDistribution):
    """Uniform times of ``schedule``, carried over to the model's own by sigma / alpha, within what that one has.

    EDM's configuration D trains its preconditioning on the noise levels of its baseline (Karras et al. 2022, table 1).

    Args:
        schedule: whose noise levels are drawn; neither the data are mixed by it nor is the network conditioned
            on it.
        t_min: of continuous schedules; levels closer to the data are not trained.
        coupling: of a batch's draws, see :func:`diffusion.objective.time_distribution.draw.uniforms`.
    """

    def __init__(self, schedule: Schedule, t_min: float = 1e-5, coupling: Coupling = "independent") -> None:
        check_coupling(coupling)
        if not 0 <= t_min < 1:
            raise ValueError(
                f"the earliest training time lies in [0, 1), got {t_min}; set objective.time_distribution.t_min"
            )
        self.schedule = schedule
        self.t_min = t_min
        self.coupling = coupling

    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        theirs = on_knots(self.schedule, 1 - uniforms(randomness, self.coupling) * (1 - self.t_min))
        alpha, sigma = self.schedule.coefficients(theirs)
        return on_knots(denoiser.schedule, denoiser.schedule.times(sigma / alpha)), None
