"""Times with heavy tails around the middle of a flow."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import TimeDistribution
from diffusion.objective.time_distribution.draw import Coupling, check_coupling, on_knots, uniforms
from diffusion.randomness import Randomness


class ModeTimeDistribution(TimeDistribution):
    """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), u uniform (Esser et al. 2024, eq. 20).

    scale: above 0 favours the middle, below 0 the ends, 0 is uniform; within [-1, 2 / (pi - 2)], where t falls with u.
    coupling: of a batch's draws, see :func:`diffusion.objective.time_distribution.draw.uniforms`.
    """

    def __init__(self, scale: float = 1.29, coupling: Coupling = "independent") -> None:
        check_coupling(coupling)
        if not -1 <= scale <= _MOST:
            raise ValueError(
                f"the scale of the mode lies in [-1, 2 / (pi - 2) = {_MOST:.4f}], got {scale}; set "
                "objective.time_distribution.scale"
            )
        self.scale = scale
        self.coupling = coupling

    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        u = uniforms(randomness, self.coupling)
        t = 1 - u - self.scale * ((math.pi / 2 * u).cos().square() - 1 + u)
        return on_knots(denoiser.schedule, t), None


_MOST = 2 / (math.pi - 2)
