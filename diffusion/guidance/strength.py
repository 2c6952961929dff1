"""How strongly guidance acts at a noise level: a number or a curve, inside an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.guidance.base import coefficients
from diffusion.schedule.base import Schedule

Scale = float | Sequence[Sequence[float]]


class Strength:
    """The scale at a noise level, stated in sigma / alpha and so the same for any schedule and number of steps.

    Args:
        scale: a number, or points [noise, scale] between which it runs linearly in log noise, constant beyond the ends.
        interval: (low, high] where guidance acts (Kynkäänniemi et al. 2024, eq. 5), everywhere where ``None``.
        off: the scale outside.
        key, name: the config key of the part and its setting's name, for errors.

    Raises:
        ValueError: an interval that is not 0 <= low <= high, or points whose noises do not rise from above 0.
    """

    def __init__(
        self, scale: Scale, interval: Sequence[float] | None, off: float, key: str, name: str = "scale"
    ) -> None:
        self.off = off
        self.low, self.high = _interval(interval, key)
        self.constant = float(scale) if isinstance(scale, int | float) else None
        points = [] if isinstance(scale, int | float) else [tuple(point) for point in scale]
        rising = all(a[0] < b[0] for a, b in pairwise(points))
        if self.constant is None and not (
            points and all(len(p) == 2 and p[0] > 0 and math.isfinite(p[1]) for p in points) and rising
        ):
            raise ValueError(
                "a scale is a number or a list of points [noise, scale] with rising noises above 0, got "
                f"{[list(p) for p in points]}; set {key}.{name}"
            )
        self._x = [math.log(noise) for noise, _ in points]
        self._y = [value for _, value in points]

    def at(self, schedule: Schedule, x: Tensor, t: Tensor | float) -> Tensor | float:
        """The scale at t: a float for a float, decided on the host; () or (B,) float64 for a tensor."""
        if not isinstance(t, Tensor):
            noise = schedule.level(t).noise
            return self._value(noise) if self.low < noise <= self.high else self.off
        alpha, sigma = coefficients(schedule, x, t)
        noises = torch.as_tensor(sigma / alpha)
        inside = (self.low < noises) & (noises <= self.high)
        return torch.where(inside, self._values(noises), self.off)

    def _value(self, noise: float) -> float:
        return (
            self.constant
            if self.constant is not None
            else float(self._values(torch.tensor(noise, dtype=torch.float64)))
        )

    def _values(self, noises: Tensor) -> Tensor:
        if self.constant is not None:
            return torch.full_like(noises, self.constant)
        x = torch.tensor(self._x, dtype=torch.float64, device=noises.device)
        y = torch.tensor(self._y, dtype=torch.float64, device=noises.device)
        at = noises.log().clamp(self._x[0], self._x[-1])
        if len(x) == 1:
            return torch.full_like(at, self._y[0])
        right = torch.searchsorted(x, at).clamp(1, len(x) - 1)
        weight = (at - x[right - 1]) / (x[right] - x[right - 1])
        return torch.lerp(y[right - 1], y[right], weight)


def _interval(interval: Sequence[float] | None, key: str) -> tuple[float, float]:
    if interval is None:
        return -math.inf, math.inf
    low, high = interval if len(interval) == 2 else (math.nan, math.nan)
    if not 0 <= low <= high:
        raise ValueError(
            "a guidance interval is [low, high] in sigma / alpha with 0 <= low <= high, got "
            f"{list(interval)}; set {key}.interval"
        )
    return float(low), float(high)
