"""Pairs of times: t, and s below it, where a jump from t lands or where its target is taken."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Step
from diffusion.randomness import Randomness
from diffusion.schedule.base import Schedule
from diffusion.types import Spacing


class Pairs(ABC):
    """A distribution of (t, s)."""

    @abstractmethod
    def __call__(
        self, denoiser: NetworkDenoiser, randomness: Randomness, step: Step | None = None
    ) -> tuple[Tensor, Tensor]:
        """((B,) float64 times t in (0, 1], (B,) float64 times s in [0, t]).

        step: how far the training is, for what changes with it; as at the end of one where ``None``.
        """

    def check(self, schedule: Schedule) -> None:  # noqa: B027 - most pairs serve any schedule
        """Raises:
        ValueError: these pairs are not defined on that schedule; called before training starts.
        """


class GridPairs(Pairs):
    """Neighbours on a grid of times, each pair with a probability of its own.

    Args:
        spacing: the grid's times.
        clean: clean data (t = 0) are the grid's last point, and so the lower end of one more pair.
    """

    def __init__(self, spacing: Spacing, clean: bool = False) -> None:
        self.spacing = spacing
        self.clean = clean
        self._grids: dict[int, tuple[Schedule, Tensor]] = {}

    @abstractmethod
    def points(self, step: Step | None = None) -> int:
        """Points of the grid above t = 0, at least 2, or 1 with ``clean``."""

    def weights(self, noises: Tensor) -> Tensor:
        """sigma / alpha at the grid's N points, rising -> what the N - 1 pairs' probabilities are proportional to."""
        return torch.ones_like(noises[1:])

    def grid(self, schedule: Schedule, points: int) -> Tensor:
        """The times of a grid, rising, float64.

        Raises:
            ValueError: a spacing that gives another number of points, as at a schedule's ends.
        """
        known = self._grids.get(points)
        if known is None or known[0] is not schedule:
            times = torch.tensor(self.spacing(schedule, points)[::-1], dtype=torch.float64)
            if len(times) != points + 1:
                raise ValueError(
                    f"{type(self.spacing).__name__} gives {len(times) - 1} times above 0 on this schedule instead of "
                    f"{points}; set objective.pairs.spacing to one that gives every number"
                )
            self._grids = {points: (schedule, times if self.clean else times[1:])}
        return self._grids[points][1]

    def check(self, schedule: Schedule) -> None:
        self.grid(schedule, self.points())

    def __call__(
        self, denoiser: NetworkDenoiser, randomness: Randomness, step: Step | None = None
    ) -> tuple[Tensor, Tensor]:
        times = self.grid(denoiser.schedule, self.points(step))
        alpha, sigma = denoiser.schedule.coefficients(times)
        u = randomness.rand()
        cumulative = self.weights(sigma / alpha).cumsum(0).to(u.device)
        index = torch.searchsorted(cumulative, u * cumulative[-1], right=True).clamp(max=len(times) - 2)
        times = times.to(u.device)
        return times[index + 1], times[index]


def done(step: Step | None) -> float:
    """The share k / K of the training that is done; 1 outside of one.

    Raises:
        ValueError: a training without an end.
    """
    if step is None:
        return 1.0
    if step.total is None:
        raise ValueError("these pairs change over the whole training, which needs an end; set trainer.max_steps")
    return min(step.number / step.total, 1.0)
