"""Exact flow maps of Gaussians and small trained ones, for tests of what learns flow maps."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.denoiser import NetworkDenoiser
from diffusion.network.mlp import MLP
from diffusion.objective.base import Step
from diffusion.objective.pairs.base import Pairs
from diffusion.parameterization.flow import FlowParameterization
from diffusion.randomness import TRAINING, KeyedRandomness, Randomness
from diffusion.schedule.flow import FlowSchedule
from diffusion.types import Cond, Prediction, expand

MEAN, STD = 0.7, 0.6
FOUR = list(itertools.product((-1.0, 1.0), repeat=2))


class Design(Randomness):
    """The noise of a design, and given uniform numbers."""

    def __init__(self, eps: Tensor, *uniform: float) -> None:
        self.eps, self.uniform = eps, iter(uniform)
        self.place, self.size = torch.arange(len(eps)), len(eps)

    def rand(self) -> Tensor:
        return torch.full((len(self.eps),), next(self.uniform, 0.5), dtype=torch.float64)

    def shared(self, group: Tensor) -> Tensor:
        return self.rand()

    def randn_like(self, x: Tensor) -> Tensor:
        return self.eps.to(x)


def keyed(index: int | range, place: Tensor | None = None, size: int | None = None) -> KeyedRandomness:
    index = range(index) if isinstance(index, int) else index
    return KeyedRandomness(index, seed=0, stream=TRAINING, place=place, size=size)


class At(Pairs):
    """Every sample from one time to one time."""

    def __init__(self, t: float, s: float) -> None:
        self.times = t, s

    def __call__(self, denoiser, randomness, step=None) -> tuple[Tensor, Tensor]:
        return tuple(torch.full_like(randomness.rand(), time) for time in self.times)


def design(mean: float = MEAN, std: float = STD) -> tuple[Tensor, Design]:
    x0 = torch.tensor([[mean + std * a] for a, _ in FOUR], dtype=torch.float64)
    return x0, Design(torch.tensor([[b] for _, b in FOUR], dtype=torch.float64))


class ExactMap(nn.Module):
    """The exact flow map of N(mean, std^2), its average velocity times a parameter; of ``null`` for vectors of 0."""

    def __init__(self, schedule: Any, mean: float = MEAN, std: float = STD, null: float | None = None) -> None:
        super().__init__()
        self.schedule, self.mean, self.std, self.null = schedule, mean, std, null
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.network = nn.Module()
        self.network.numbers = ("to", "guidance")

    def towards(self, x: Tensor, s: Any, cond: Cond) -> Cond:
        at = torch.as_tensor(s, dtype=torch.float64).expand(len(x))
        return replace(cond, numbers={**cond.numbers, "to": at})

    def forward(self, x: Tensor, t: Any, cond: Cond) -> Prediction:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        u, r, size = (expand(v, x) for v in (self.place(t), self.place(cond.numbers["to"]), self.size(t)))
        mean = self.mean if cond.vector is None or self.null is None or cond.vector.any() else self.null
        z, tau = x / size, self.std
        here, there = (((1 - at) ** 2 * tau**2 + at**2) ** 0.5 for at in (u, r))
        average = -mean + (z - (1 - u) * mean) * ((u + r) - tau**2 * (2 - u - r)) / (here * (here + there))
        average = self.gain * average
        return Prediction(z - u * average, z + (1 - u) * average)

    def size(self, t: Tensor) -> Tensor:
        return sum(self.schedule.coefficients(t))

    def place(self, t: Tensor) -> Tensor:
        return self.schedule.sigma(t) / self.size(t)


def spread(schedule: Any, t: float, std: float = STD) -> float:
    level = schedule.level(t)
    u = level.sigma / (level.alpha + level.sigma)
    return math.hypot((1 - u) * std, u)


def measured(objective: Any, model: nn.Module, x0: Tensor, source: Randomness, **more: Any) -> tuple[Tensor, Tensor]:
    """(losses (B,), the gradient of their mean by the parameter)."""
    loss = objective(model, x0, more.pop("cond", Cond()), randomness=source, **more).total
    (gradient,) = torch.autograd.grad(loss.mean(), model.gain)
    return loss.detach(), gradient


def gaussian(count: int, generator: torch.Generator) -> Tensor:
    """Correlated in the plane; (B, 2, 1, 1)."""
    z = torch.randn(count, 2, generator=generator)
    return (torch.tensor([0.5, -0.3]) + z @ torch.tensor([[0.7, 0.4], [0.0, 0.3]])).reshape(count, 2, 1, 1)


def exact_map(noise: Tensor) -> Tensor:
    """The map of the ODE from N(0, 1) to :func:`gaussian`: mean + root of the covariance, times the noise."""
    factor = torch.tensor([[0.7, 0.4], [0.0, 0.3]])
    values, vectors = torch.linalg.eigh(factor.T @ factor)
    root = vectors @ values.sqrt().diag() @ vectors.T
    return (torch.tensor([0.5, -0.3]) + noise.flatten(1) @ root).reshape(noise.shape)


def trained(
    objective: Any, steps: int = 600, schedule: Any = None, lr: float = 5e-3, target: Any = None, scale: float = 0.003
) -> Any:
    """A small network, trained on the plane by hand with an average of its weights."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    network = MLP(2, 1, width=32, depth=1, numbers=("to",))
    model = NetworkDenoiser(network, schedule or FlowSchedule(), target or FlowParameterization(), time_scale=scale)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98))
    extra = [p for module in objective.extra.values() for p in module.parameters()]
    optimizer = torch.optim.Adam([*model.parameters(), *extra], lr=lr)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / (steps + 1))
    objective.check(model)
    for number in range(steps):
        step = Step(number, steps, average.module, lambda: None)  # type: ignore[arg-type, return-value]
        loss = objective(model, gaussian(128, generator), Cond(), step=step).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        average.update_parameters(model)
    return average.module.eval()


def one_step_error(model: Any) -> float:
    """Of one jump from noise, relative to the spread of the data."""
    noise = torch.randn(2000, 2, 1, 1, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        said, wanted = (
            model.jump(noise * model.schedule.prior_std(model.schedule.level(1.0)), 1.0, 0.0),
            exact_map(noise),
        )
    return float((said - wanted).square().mean().sqrt() / wanted.std())
