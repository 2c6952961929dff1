"""Consistency: every point of a path of the probability-flow ODE has the same data at its end."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Objective, Step
from diffusion.objective.metric.base import Metric
from diffusion.objective.pairs.base import GridPairs, Pairs
from diffusion.objective.twin import Twin
from diffusion.randomness import GlobalRandomness, Randomness
from diffusion.schedule.base import FIRST
from diffusion.types import Cond, combine, expand, scale

Weight = Literal["constant", "inverse_step"]
"""1, or 1 / (n_t - n_s) in n = sigma / alpha."""


@dataclass(frozen=True, slots=True)
class Path:
    """x (B, ...) at t (B,) of the data x0 with the noise eps, and the time s (B,) below it."""

    x0: Tensor
    eps: Tensor
    x: Tensor
    t: Tensor
    s: Tensor


class ConsistencyObjective(Objective):
    r"""weight d(f(x_t, t), f'(x_s, s)) with f(x, t) the student's x_0 and f' the same of a target without gradients
    (Song et al. 2023, definition 1); f'(x_0, 0) = x_0.

    The target is the student itself where ``rate`` is 0, with the same dropout, and a second average of it otherwise;
    on a grid that grows from N_0 to N points the rate is rate^(N_0 / N) (there, appendix C).

    Args:
        pairs: the distribution of (t, s).
        metric: d.
        weight: ``constant``, or ``inverse_step``, 1 / (n_t - n_s) in n = sigma / alpha (Song & Dhariwal 2024).
        rate: what the target keeps of itself in a step.

    Raises:
        ValueError: an unknown weight, or a rate outside [0, 1).
    """

    def __init__(self, pairs: Pairs, metric: Metric, weight: Weight = "constant", rate: float = 0.0) -> None:
        if weight not in get_args(Weight):
            raise ValueError(f"the weight is constant or inverse_step, got {weight!r}; set objective.weight")
        if not 0 <= rate < 1:
            raise ValueError(f"a target keeps a share in [0, 1) of itself, got {rate}; set objective.rate")
        self.pairs = pairs
        self.metric = metric
        self.weight = weight
        self.rate = rate
        self.twin = Twin()

    @abstractmethod
    def earlier(self, denoiser: NetworkDenoiser, path: Path, cond: Cond, randomness: Randomness) -> tuple[Tensor, Cond]:
        """x (B, ...) at s, on the way from x at t to data, and the condition that the student is given; called without
        gradients."""

    def check(self, denoiser: NetworkDenoiser) -> None:
        self.pairs.check(denoiser.schedule)
        check_boundary(denoiser)

    def __call__(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        cond: Cond,
        *,
        randomness: Randomness | None = None,
        step: Step | None = None,
    ) -> Loss:
        randomness = randomness or GlobalRandomness(x0)
        schedule = denoiser.schedule
        t, s = (at.to(x0.device) for at in self.pairs(denoiser, randomness, step))
        eps = randomness.randn_like(x0)
        alpha, sigma = schedule.coefficients(t)
        path = Path(x0, eps, combine(alpha, x0, sigma, eps), t, s)
        with torch.no_grad():
            x_s, cond = self.earlier(denoiser, path, cond, randomness)
        target = self.twin.of(denoiser) if self.rate else denoiser
        said = ends(denoiser, path.x, t, cond)
        with torch.no_grad(), nullcontext() if step is None or self.rate else step.replay():
            wanted = ends(target, x_s, s, cond)
            below = schedule.coefficients(s)
            wanted = torch.where(expand(s == 0, x_s), scale(1 / below[0], x_s), wanted)
        distance = self.metric(said, wanted)
        loss = distance
        if self.weight == "inverse_step":
            loss = distance / (sigma / alpha - below[1] / below[0]).to(distance)
        return Loss(loss, {"distance": distance}, t)

    def after_step(self, denoiser: NetworkDenoiser, step: Step) -> None:
        if self.rate:
            rate = self.rate
            if isinstance(self.pairs, GridPairs):
                start = self.pairs.points(Step(0, step.total, None, step.replay))
                rate **= start / self.pairs.points(step)
            self.twin.follow(denoiser, rate)

    def state_dict(self) -> dict[str, Tensor]:
        return self.twin.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.twin.load_state_dict(state)


def ends(denoiser: NetworkDenoiser, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """The data (B, ...) at the end of the path through x (B, ...) at t (B,)."""
    return denoiser(x, t, denoiser.towards(x, 0.0, cond)).x0


def check_boundary(denoiser: NetworkDenoiser) -> None:
    """Raises:
    ValueError: a target with which clean data are what the network says.
    """
    schedule, parameterization = denoiser.schedule, denoiser.parameterization
    alpha, sigma = schedule.coefficients(torch.tensor([FIRST], dtype=torch.float64))
    groups = parameterization.outputs + parameterization.learned_variance
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    share = parameterization.decode(torch.ones(1, groups, 1, 1, dtype=torch.float64), x, alpha, sigma).x0
    if not float(share.abs()) < 0.5:
        raise ValueError(
            f"a consistency model gives clean data back as they are, and {type(parameterization).__name__} takes "
            "them from the network there; use parameterization=edm, consistency, velocity, flow or epsilon"
        )
