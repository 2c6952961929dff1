"""Times around the middle of a flow."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import TimeDistribution
from diffusion.objective.time_distribution.draw import Coupling, check_coupling, on_knots, uniforms
from diffusion.randomness import Randomness


class LogitNormalTimeDistribution(TimeDistribution):
    """logit(t) ~ N(mean, std^2) (Esser et al. 2024, eq. 19).

    mean: above 0 leans to noise, below 0 to data.
    coupling: of a batch's draws, see :func:`diffusion.objective.time_distribution.draw.uniforms`.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, coupling: Coupling = "independent") -> None:
        check_coupling(coupling)
        if not std > 0:
            raise ValueError(f"the spread of logit(t) is above 0, got {std}; set objective.time_distribution.std")
        self.mean = mean
        self.std = std
        self.coupling = coupling

    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        z = torch.special.ndtri(uniforms(randomness, self.coupling))
        return on_knots(denoiser.schedule, (self.mean + self.std * z).sigmoid()), None
