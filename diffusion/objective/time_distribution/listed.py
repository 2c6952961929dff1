"""A few times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import TimeDistribution
from diffusion.objective.time_distribution.draw import on_knots
from diffusion.randomness import Randomness


class ListedTimeDistribution(TimeDistribution):
    """Each of ``times`` alike; a one-step model is trained at t = 1 alone (Liu et al. 2024, InstaFlow, eq. 6).

    Raises:
        ValueError: no time, or one outside of (0, 1].
    """

    def __init__(self, times: Sequence[float] = (1.0,)) -> None:
        if not times or not all(0 < t <= 1 for t in times):
            raise ValueError(
                f"training times lie in (0, 1], at least one, got {list(times)}; set objective.time_distribution.times"
            )
        self.times = torch.tensor(list(times), dtype=torch.float64)

    def __call__(self, denoiser: NetworkDenoiser, randomness: Randomness) -> tuple[Tensor, Tensor | None]:
        u = randomness.rand()
        chosen = (u * len(self.times)).long().clamp(max=len(self.times) - 1)
        return on_knots(denoiser.schedule, self.times.to(u.device)[chosen]), None
