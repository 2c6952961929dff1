"""Every time alike."""

from __future__ import annotations

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import TimeDistribution
from diffusion.objective.time_distribution.draw import Coupling, check_coupling, uniforms
from diffusion.randomness import Randomness


class UniformTimeDistribution(TimeDistribution):
    """Uniform over the T knots (i + 1) / T of a table (Ho et al. 2020, algorithm 1), on (t_min, 1] without a table.

    t_min: of continuous schedules; levels closer to the data are not trained (Song et al. 2021, appendix C).
    coupling: of a batch's draws, see :func:`diffusion.objective.time_distribution.draw.uniforms`.
    """

    def __init__(self, t_min: float = 1e-5, coupling: Coupling = "independent") -> None:
        check_coupling(coupling)
        if not 0 <= t_min < 1:
            raise ValueError(
                f"the earliest training time lies in [0, 1), got {t_min}; set objective.time_distribution.t_min"
            )
        self.t_min = t_min
        self.coupling = coupling

    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        T, u = denoiser.schedule.steps, uniforms(randomness, self.coupling)
        if T is None:
            return 1 - u * (1 - self.t_min), None
        return ((u * T).floor().clamp(max=T - 1) + 1) / T, None
