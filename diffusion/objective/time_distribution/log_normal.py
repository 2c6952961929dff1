"""Noise levels around one where there is most to learn."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import TimeDistribution
from diffusion.objective.time_distribution.draw import Coupling, check_coupling, on_knots, uniforms
from diffusion.randomness import Randomness


class LogNormalTimeDistribution(TimeDistribution):
    """log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, table 1), within what the schedule has.

    mean, std: the paper's P_mean and P_std.
    coupling: of a batch's draws, see :func:`diffusion.objective.time_distribution.draw.uniforms`.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2, coupling: Coupling = "independent") -> None:
        check_coupling(coupling)
        if not std > 0:
            raise ValueError(f"the spread of log noise is above 0, got {std}; set objective.time_distribution.std")
        self.mean = mean
        self.std = std
        self.coupling = coupling

    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        z = torch.special.ndtri(uniforms(randomness, self.coupling))
        schedule = denoiser.schedule
        return on_knots(schedule, schedule.times((self.mean + self.std * z).exp())), None
