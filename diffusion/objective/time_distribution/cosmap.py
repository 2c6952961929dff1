"""Times whose log-SNR on a flow is that of the cosine schedule."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import TimeDistribution
from diffusion.objective.time_distribution.draw import Coupling, check_coupling, on_knots, uniforms
from diffusion.randomness import Randomness


class CosMapTimeDistribution(TimeDistribution):
    """t = 1 - 1 / (tan(pi u / 2) + 1), u uniform, of density 2 / (pi - 2 pi t + 2 pi t^2)
    (Esser et al. 2024, section 3.1).

    coupling: of a batch's draws, see :func:`diffusion.objective.time_distribution.draw.uniforms`.
    """

    def __init__(self, coupling: Coupling = "independent") -> None:
        check_coupling(coupling)
        self.coupling = coupling

    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        u = uniforms(randomness, self.coupling)
        return on_knots(denoiser.schedule, 1 - 1 / ((math.pi / 2 * u).tan() + 1)), None
