"""Guidance by a measurement that takes the sampler's steps itself."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from torch import Tensor

from diffusion.guidance.base import StepReplay
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.operator.base import Operator
from diffusion.schedule.base import Level
from diffusion.types import Cond, Denoiser, Prediction, RandnLike


class Visited(NamedTuple):
    """x (B, ...) at a level, and what was predicted of it."""

    x: Tensor
    prediction: Prediction


class MeasuredStepGuidance(MeasurementGuidance):
    """x at the next level follows from x, its prediction and the measurement by :meth:`step`, whatever step the sampler
    took; the sampler gives the levels.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`.
        noise: standard deviation of the measurement's noise.
    """

    def __init__(
        self, denoiser: Denoiser, operator: Operator, measurement: Tensor | str, simulate: bool, noise: float
    ) -> None:
        super().__init__(denoiser, operator, measurement, simulate)
        self.noise = noise
        self._visited: dict[float, Visited] = {}

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        if isinstance(t, Tensor):
            raise ValueError("guidance by measurement is for sampling: all samples at one time, a float")
        prediction = self.predict(x, t, cond)
        self._visited[t] = Visited(x, prediction)
        return prediction

    def after(self, x: Tensor, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        x = super().after(x, cur, nxt, replay, randn_like)
        visited = self._visited.get(cur.t)
        self._visited.clear()
        if visited is None or cur.alpha == 0:
            return x
        return self.step(visited, cur, nxt, replay, randn_like)

    def predict(self, x: Tensor, t: float, cond: Cond) -> Prediction:
        """The denoiser's prediction."""
        return self.denoiser(x, t, cond)

    @abstractmethod
    def step(self, visited: Visited, cur: Level, nxt: Level, replay: StepReplay, randn_like: RandnLike) -> Tensor:
        """What was visited at ``cur`` -> x at ``nxt``."""
