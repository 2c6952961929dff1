"""Two draws, ordered."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Step, TimeDistribution
from diffusion.objective.pairs.base import Pairs
from diffusion.randomness import Randomness
from diffusion.schedule.base import Schedule


class DrawsPairs(Pairs):
    """t and s are the larger and the smaller of two draws (Geng et al. 2025, MeanFlow, section 4.3); a share has s = t.

    Args:
        first, second: distributions of the two draws.
        apart: share of the samples with s < t; 0.25 in the paper on ImageNet, 0.75 on CIFAR-10.

    Raises:
        ValueError: a share outside of [0, 1].
    """

    def __init__(self, first: TimeDistribution, second: TimeDistribution, apart: float = 0.25) -> None:
        if not 0 <= apart <= 1:
            raise ValueError(f"the share of pairs apart lies in [0, 1], got {apart}; set objective.pairs.apart")
        self.first, self.second, self.apart = first, second, apart

    def check(self, schedule: Schedule) -> None:
        self.first.check(schedule)
        self.second.check(schedule)

    def __call__(
        self, denoiser: NetworkDenoiser, randomness: Randomness, step: Step | None = None
    ) -> tuple[Tensor, Tensor]:
        one, other = self.first(denoiser, randomness)[0], self.second(denoiser, randomness)[0]
        t, s = torch.maximum(one, other), torch.minimum(one, other)
        return t, torch.where(randomness.rand() < self.apart, s, t)
