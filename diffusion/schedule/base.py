r"""Schedules: the forward process x_t = alpha(t) x_0 + sigma(t) eps, t in [0, 1], 0 = data, 1 = noise.

Derived quantities, with the names used everywhere:

    noise(t)   = sigma / alpha               the schedule-free coordinate (EDM's sigma)
    lam(t)     = log(alpha / sigma)          half the log-SNR
    log_snr(t) = 2 lam(t) = log(alpha^2 / sigma^2)

A DDPM table of T betas is a schedule whose knots are exact: knot i at t = i / T has
log alpha = 1/2 sum_{j <= i} log(1 - beta_j), knot 0 is clean data, and log alpha is linear between knots. Then
c_noise(t) = t T - 1 is DDPM's 0-based index, and any respacing equals the original discrete code.

Coefficients are computed in float64: tensors in, float64 tensors out; scalars are Python floats.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Level:
    """One point of a schedule, in float64 Python numbers."""

    t: float
    alpha: float
    sigma: float

    @property
    def noise(self) -> float:
        """sigma / alpha: 0 at clean data, inf where nothing of the data is left."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def lam(self) -> float:
        """log(alpha / sigma), half the log-SNR: inf at clean data, -inf where nothing of the data is left."""
        if self.alpha <= 0:
            return -math.inf
        return math.log(self.alpha / self.sigma) if self.sigma > 0 else math.inf


class Schedule(ABC):
    """x_t = alpha(t) x_0 + sigma(t) eps. ``sigma / alpha`` grows strictly with t.

    steps: T of a discrete training table, ``None`` if continuous.
    """

    steps: int | None = None

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at t (any shape), float64."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at t (any shape), float64."""

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) at t (any shape), float64: both for the price of one where they have a root in common."""
        return self.alpha(t), self.sigma(t)

    def check(self) -> None:
        """Compares 501 times with each other; a model is built of a schedule that passes.

        Raises:
            ValueError: the log-SNR does not fall strictly with t.
        """
        times = torch.linspace(0, 1, 501, dtype=torch.float64, device="cpu")
        alpha, sigma = self.coefficients(times)
        grows = sigma[1:] * alpha[:-1] > sigma[:-1] * alpha[1:]  # sigma / alpha, also where alpha is 0
        if not grows.all():
            at = int((~grows).nonzero()[0])
            found = zip(*(values[at : at + 2].tolist() for values in (times, alpha, sigma)), strict=True)
            first, then = (f"{level.noise:.6g} at t = {level.t:.3g}" for level in (Level(*row) for row in found))
            raise ValueError(
                f"the log-SNR of a schedule falls strictly with t, and {type(self).__name__} has sigma/alpha = {first} "
                f"and {then}; choose settings of the schedule with which the noise only grows"
            )

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2) at t."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def c_noise(self, t: Tensor) -> Tensor:
        """What the network is conditioned on at t: t itself, unless a schedule says otherwise."""
        return t

    def level(self, t: float) -> Level:
        """The coefficients at one time.

        Raises:
            ValueError: t is outside [0, 1].
        """
        if not 0.0 <= t <= 1.0:
            raise ValueError(f"a time lies in [0, 1] (0 = data, 1 = noise), got {t}")
        at = torch.tensor(t, dtype=torch.float64)
        return Level(t, float(self.alpha(at)), float(self.sigma(at)))

    def time(self, noise: float) -> float:
        """The t at which sigma / alpha equals ``noise``, clamped to [0, 1]; by bisection unless a form is known."""
        lo, hi = 0.0, 1.0
        if noise <= self.level(lo).noise:
            return lo
        if noise >= self.level(hi).noise:
            return hi
        while True:
            mid = 0.5 * (lo + hi)
            if mid in (lo, hi):
                return mid
            if self.level(mid).noise < noise:
                lo = mid
            else:
                hi = mid

    def times(self, noise: Tensor) -> Tensor:
        """:meth:`time` for a tensor (any shape), in (0, 1], to 1e-18 in t: training draws times by noise level so."""
        low, high = torch.zeros_like(noise, dtype=torch.float64), torch.ones_like(noise, dtype=torch.float64)
        for _ in range(60):
            mid = 0.5 * (low + high)
            below = self.sigma(mid) < noise * self.alpha(mid)
            low, high = torch.where(below, mid, low), torch.where(below, high, mid)
        return high

    def prior_std(self, start: Level) -> float:
        """Standard deviation of the noise that sampling starts from at ``start``."""
        return start.sigma


class VariancePreservingSchedule(Schedule):
    """alpha^2 + sigma^2 = 1, given log alpha(t). Sampling starts from N(0, 1), as in DDPM."""

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t), float64, 0 at t = 0 and never above it."""

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.expm1(2 * self.log_alpha(t)).abs().sqrt()

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = self.log_alpha(t)
        return log_alpha.exp(), torch.expm1(2 * log_alpha).abs().sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        log_alpha = self.log_alpha(t)
        return 2 * log_alpha - torch.log(-torch.expm1(2 * log_alpha))

    def prior_std(self, start: Level) -> float:
        return 1.0


class DiscreteSchedule(VariancePreservingSchedule):
    """A table of T betas (Ho et al. 2020, section 2), exact at its knots t = i / T.

    betas: (T,) in (0, 1]; a last beta of exactly 1 is zero terminal SNR, and alpha itself is linear before it.

    Raises:
        ValueError: the table is empty, not 1-d, or has an entry outside (0, 1] (1 is allowed at the end only).
    """

    steps: int

    def __init__(self, betas: Tensor) -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) == 0:
            raise ValueError(f"a beta table is one non-empty row of numbers, got shape {tuple(betas.shape)}")
        bad = (betas <= 0) | (betas > 1) | ((betas == 1) & (torch.arange(len(betas)) < len(betas) - 1))
        if not torch.isfinite(betas).all() or bad.any():
            at = int(torch.nonzero(bad | ~torch.isfinite(betas))[0])
            raise ValueError(f"betas lie in (0, 1), and only the last may be 1; entry {at} is {float(betas[at])}")
        self.betas = betas
        self.steps = len(betas)
        log_alpha = 0.5 * torch.log1p(-betas).cumsum(0)
        self._log_alpha = torch.cat((torch.zeros(1, dtype=torch.float64), log_alpha))
        self._next = torch.cat((log_alpha, log_alpha[-1:]))
        self._vanishes = bool(log_alpha[-1].isinf())
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """log alpha at the knots and one knot later, copied to a device once: each copy would wait for it."""
        if device not in self._copies:
            self._copies[device] = self._log_alpha.to(device), self._next.to(device)
        return self._copies[device]

    @cached_property
    def _knots(self) -> list[float]:
        return self._log_alpha.tolist()

    def log_alpha(self, t: Tensor) -> Tensor:
        position = (t.double() * self.steps).clamp_(0, self.steps)
        nearest = position.round()
        position = torch.where((position - nearest).abs() < _KNOT_TOLERANCE, nearest, position)
        below = position.floor()
        weight, i = position - below, below.long()
        log_alpha, after = self._tables(t.device)
        left, right = log_alpha[i], after[i]
        between = torch.addcmul(left, weight, right - left)
        return torch.where(right.isinf(), left + torch.log1p(-weight), between) if self._vanishes else between

    def level(self, t: float) -> Level:
        if not 0.0 <= t <= 1.0:
            raise ValueError(f"a time lies in [0, 1] (0 = data, 1 = noise), got {t}")
        knots, T = self._knots, len(self._knots) - 1
        position = t * T
        if abs(position - round(position)) < _KNOT_TOLERANCE:
            log_alpha = knots[round(position)]
        else:
            i = math.floor(position)
            last = knots[i + 1] == -math.inf
            step = math.log1p(i - position) if last else (position - i) * (knots[i + 1] - knots[i])
            log_alpha = knots[i] + step
        return Level(t, math.exp(log_alpha), math.sqrt(abs(math.expm1(2 * log_alpha))))

    def time(self, noise: float) -> float:
        if noise <= 0:
            return 0.0
        log_alpha = -0.5 * math.log1p(noise * noise)
        knots, T = self._knots, len(self._knots) - 1
        if log_alpha <= knots[T]:
            return 1.0
        i = bisect_left(knots, -log_alpha, key=lambda value: -value)
        left, right = knots[i - 1], knots[i]
        weight = -math.expm1(log_alpha - left) if right == -math.inf else (log_alpha - left) / (right - left)
        return (i - 1 + weight) / T

    def times(self, noise: Tensor) -> Tensor:
        knots, _ = self._tables(noise.device)
        log_alpha = -0.5 * torch.log1p(noise.double().square())
        i = torch.searchsorted(-knots, -log_alpha).clamp_(1, self.steps)
        left, right = knots[i - 1], knots[i]
        weight = torch.where(right.isinf(), -torch.expm1(log_alpha - left), (log_alpha - left) / (right - left))
        return ((i - 1 + weight.clamp_(0, 1)) / self.steps).clamp_(min=2.0**-60)

    def c_noise(self, t: Tensor) -> Tensor:
        return t * self.steps - 1


def check_range(T: int, beta_start: float = 0.5, beta_end: float = 0.5) -> None:
    """Raises:
    ValueError: T is not a whole number from 1, or the betas do not satisfy 0 < beta_start <= beta_end < 1.
    """
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ValueError(f"a table has a whole number of betas, at least 1, got T={T!r}; set schedule.T")
    if not 0 < beta_start <= beta_end < 1:
        raise ValueError(
            f"a table takes 0 < beta_start <= beta_end < 1, got beta_start={beta_start}, beta_end={beta_end}; "
            "set schedule.beta_start and schedule.beta_end"
        )


def check_noise(sigma_min: float, sigma_max: float) -> None:
    """Raises:
    ValueError: not 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"noise levels satisfy 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}; "
            "set schedule.sigma_min and schedule.sigma_max"
        )


def check_rate(beta_min: float, beta_max: float) -> None:
    """Raises:
    ValueError: not 0 < beta_min <= beta_max.
    """
    if not 0 < beta_min <= beta_max < math.inf:
        raise ValueError(
            f"rates of noise satisfy 0 < beta_min <= beta_max, got {beta_min} and {beta_max}; "
            "set schedule.beta_min and schedule.beta_max"
        )


def from_alphas_bar(alphas_bar: Tensor) -> Tensor:
    """alpha-bar (T,), decreasing from below 1 -> the betas (T,) that multiply up to it.

    Raises:
        ValueError: it does not decrease strictly within [0, 1).
    """
    before = torch.cat((torch.ones(1, dtype=torch.float64), alphas_bar.double().flatten()[:-1]))
    bad = ~((alphas_bar < before) & (alphas_bar >= 0))
    if bad.any():
        at = int(torch.nonzero(bad)[0])
        raise ValueError(f"alpha-bar decreases strictly from below 1 down to 0; entry {at} is {float(alphas_bar[at])}")
    return 1 - alphas_bar / before


FIRST = 1e-12
"""A time just above 0: where a schedule whose noise starts at a sigma_min above 0 (VE, EDM) has that noise."""
_KNOT_TOLERANCE = 1e-9
"""Times such as 901 / 1000 * 1000 are not integers in float64; a position this close to a knot is the knot."""
