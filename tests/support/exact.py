"""Truth for samplers: schedules whose ends are chosen, exact moments of a linear sampler, a two-mode mixture."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from diffusion.schedule.base import Level, Schedule, VariancePreservingSchedule
from diffusion.testing.exact import OneHot, moments, slope
from diffusion.types import Cond, Prediction, expand

__all__ = ["OneHot", "moments", "slope"]  # and what is made here

CONF = Path(__file__).parents[2] / "conf"
SAMPLERS = sorted((CONF / "sampler").glob("*.yaml"))
BRINGS = "override /spacing@_global_.spacing"


def noise(rows=4, dim=2, seed=0, dtype=torch.float64):
    """Seeded noise (rows, dim)."""
    return torch.randn(rows, dim, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def replay(draws):
    """A source of noise that gives these, in order."""
    source = iter(draws)
    return lambda x: next(source)


def from_config(path, **settings):
    """The sampler of a file in conf/sampler, with the spacing that the file asks for; statistics, where it reads a
    model's, are those of data prediction, which need no file."""
    node = OmegaConf.load(path)
    if "statistics" in node:
        settings = {"statistics": "data_prediction", **settings}
    chosen = [d[BRINGS] for d in node.pop("defaults", []) if BRINGS in d]
    spacing = OmegaConf.load(CONF / "spacing" / f"{chosen[0] if chosen else 'trailing'}.yaml")
    return instantiate(OmegaConf.create({"spacing": spacing, "it": OmegaConf.merge(node, settings)}))["it"]


class ContinuousVP(VariancePreservingSchedule):
    """beta(t) = 0.1 + 19.9 t (Song et al. 2021, appendix C)."""

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * (0.1 * t.double() + 0.5 * 19.9 * t.double() ** 2)

    def level(self, t: float) -> Level:
        """In numbers: thousands of tensors of one element are what solving for a time costs."""
        log_alpha = -0.5 * (0.1 * t + 0.5 * 19.9 * t**2)
        return Level(t, math.exp(log_alpha), math.sqrt(abs(math.expm1(2 * log_alpha))))


class Flow(Schedule):
    """alpha = 1 - t, sigma = t: both ends are singular in sigma / alpha or its logarithm."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t.double()

    def sigma(self, t: Tensor) -> Tensor:
        return t.double()

    def level(self, t: float) -> Level:
        return Level(t, 1 - t, t)


class Exploding(Schedule):
    """alpha = 1, sigma = 80 t^3, EDM's coordinate."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def sigma(self, t: Tensor) -> Tensor:
        return 80 * t.double() ** 3

    def level(self, t: float) -> Level:
        return Level(t, 1.0, 80 * t**3)


class Between(Schedule):
    """Another schedule from time ``start`` to time ``end`` as one of its own, so that no end is singular.

    warp: bends time without moving its ends, for denser steps somewhere.
    """

    def __init__(
        self, schedule: Schedule, start: float, end: float, warp: Callable[[Tensor], Tensor] = lambda t: t
    ) -> None:
        self.inner, self.start, self.end, self.warp = schedule, start, end, warp

    def _at(self, t: Tensor) -> Tensor:
        return self.start + (self.end - self.start) * self.warp(t.double())

    def alpha(self, t: Tensor) -> Tensor:
        return self.inner.alpha(self._at(t))

    def sigma(self, t: Tensor) -> Tensor:
        return self.inner.sigma(self._at(t))

    def level(self, t: float) -> Level:
        inner = self.inner.level(float(self.start + (self.end - self.start) * self.warp(t)))
        return Level(t, inner.alpha, inner.sigma)

    def prior_std(self, start: Level) -> float:
        return self.inner.prior_std(start)


class Mixture:
    """The exact denoiser of x_0 ~ 1/2 N(centre, std^2 I) + 1/2 N(-centre, std^2 I) in several dimensions."""

    def __init__(self, schedule: Schedule, centre: Tensor, std: float) -> None:
        self.schedule, self.centre, self.std = schedule, centre.double(), std

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        at = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = expand(self.schedule.alpha(at), x), expand(self.schedule.sigma(at), x)
        spread = alpha**2 * self.std**2 + sigma**2
        # the posterior weight of one mode against the other, then each mode's Gaussian answer
        side = torch.tanh((alpha / spread * x.double() @ self.centre).unsqueeze(-1)) * self.centre
        centred = (x.double() - alpha * side) / spread
        x0, eps = side + alpha * self.std**2 * centred, sigma * centred
        return Prediction(x0=x0.to(x.dtype), eps=eps.to(x.dtype))

    def cdf(self, x: Tensor) -> Tensor:
        """Distribution function of x_0 along the direction of ``centre``."""
        d = float(self.centre.norm())
        return 0.5 * sum(0.5 * (1 + torch.erf((x - m) / (self.std * math.sqrt(2)))) for m in (d, -d))


class Wiggly:
    """A denoiser that is not Gaussian, so that no error cancels by symmetry; its variance is learned."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        level = self.schedule.level(float(t))
        r = math.hypot(level.alpha, level.sigma)
        eps = torch.sin(3 * x / r + t) * level.sigma / r
        return Prediction(x0=(x - level.sigma * eps) / level.alpha, eps=eps, var_mix=torch.sigmoid(x))
