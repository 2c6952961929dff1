"""Mean flows: the average velocity between two times, from its identity with the velocity at one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion.condition import DROPPED
from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Objective, Step
from diffusion.objective.flow_map import (
    along,
    average_velocity,
    check_jumps,
    check_smooth,
    rates,
    straightened,
    velocity,
)
from diffusion.objective.pairs.base import Pairs
from diffusion.objective.teaching import is_told, told
from diffusion.randomness import GlobalRandomness, Randomness
from diffusion.types import Cond, combine, expand, to_device_async

Tangent = Literal["data", "predicted"]


class MeanFlowObjective(Objective):
    r"""||u - v + (t - s) du/dt||^2 of the average velocity u(x_t, t, s), times 1 / (||.||^2 + c)^p, which is constant
    (Geng et al. 2025, algorithm 1); norms are sums over a sample's elements, t and s are places u on the straight path.

    The derivative follows the path, du/dt = (dx/dt, 1, 0) . grad u, and is constant. dx/dt is the sample's own velocity
    v = eps - x_0 in mean flows; in improved ones it is the model's own u(x_t, t, t), so that the loss is a regression
    to v (Geng et al. 2025, improved mean flows).

    With guidance v is  scale v + (1 - scale - mixture) u(x_t, t, t | nothing) + mixture u(x_t, t, t | condition), of
    an effective scale of scale / (1 - mixture); samples without their condition keep v.

    Args:
        pairs: of t and s.
        p, c: of the weight; p = 0 is the squared error.
        tangent: "data", the sample's velocity, or "predicted", the model's.
        scales: [low, high], from which the scale of guidance in the target is drawn for each sample; the network is
            told it as the number "guidance" where it embeds one. Such a model is sampled without classifier-free
            guidance. No guidance where ``None``.
        mixture: share of the model's own prediction under the condition in the guided target.

    Raises:
        ValueError: a negative p, a c that is not above 0, scales that are not 0 <= low <= high, a mixture outside of
            [0, 1), or an unknown tangent.
    """

    def __init__(
        self,
        pairs: Pairs,
        p: float = 1.0,
        c: float = 0.01,
        tangent: Tangent = "data",
        scales: Sequence[float] | None = None,
        mixture: float = 0.0,
    ) -> None:
        if not (p >= 0 and c > 0):
            raise ValueError(
                f"an adaptive weight takes p >= 0 and c > 0, got {p} and {c}; set objective.p, objective.c"
            )
        if tangent not in get_args(Tangent):
            raise ValueError(f"the tangent is data or predicted, got {tangent!r}; set objective.tangent")
        if scales is not None and not (len(scales) == 2 and 0 <= scales[0] <= scales[1] < math.inf):
            raise ValueError(
                f"guidance scales are [low, high] with 0 <= low <= high, got {list(scales)}; set objective.scales"
            )
        if not 0 <= mixture < 1:
            raise ValueError(f"a share of the guided target lies in [0, 1), got {mixture}; set objective.mixture")
        self.pairs, self.p, self.c, self.tangent = pairs, p, c, tangent
        self.scales = None if scales is None else (float(scales[0]), float(scales[1]))
        self.mixture = mixture

    def check(self, denoiser: NetworkDenoiser) -> None:
        check_jumps(denoiser, "a mean flow")
        check_smooth(denoiser.schedule, "a mean flow")
        self.pairs.check(denoiser.schedule)
        if self.scales is not None and self.scales[0] < self.scales[1] and not is_told(denoiser):
            raise ValueError(
                f"a guidance scale is drawn from {list(self.scales)}, and the network is not told which; "
                "set network.numbers=[to,guidance], or two equal numbers in objective.scales"
            )

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
        t, s = self.pairs(denoiser, randomness, step)
        eps, (low, high) = randomness.randn_like(x0), self.scales or (1.0, 1.0)
        t, s, scale = to_device_async(torch.stack((t, s, low + (high - low) * randomness.rand().to(t))), x0.device)
        at = rates(denoiser.schedule, t)
        x = combine(at.alpha, x0, at.sigma, eps)
        v = eps - x0
        if self.scales is not None:
            cond = told(denoiser, cond, scale)
            v = self.with_guidance(denoiser, v, x, t, scale, cond)
        tangent = v
        if self.tangent == "predicted":
            with torch.no_grad():
                tangent = average_velocity(denoiser, x, t, t, cond)
        landing = denoiser.towards(x, s, cond)
        mean, rate = along(lambda x, t: velocity(denoiser(x, t, landing)), x, t, at.direction(x, tangent), 1 / at.du)
        apart = at.u - straightened(denoiser.schedule, s)[1]
        difference = (mean - v).to(rate.dtype) + expand(apart, rate).to(rate) * rate
        squares = difference.square().flatten(1).sum(1)
        weight = (squares.detach() + self.c) ** -self.p
        mse = squares / x0[0].numel()
        return Loss(weight * squares, {"mse": mse}, t, mse)

    @torch.no_grad()
    def with_guidance(
        self, denoiser: NetworkDenoiser, v: Tensor, x: Tensor, t: Tensor, scale: Tensor, cond: Cond
    ) -> Tensor:
        """The velocity (B, ...) that is learned under guidance."""
        if cond.is_empty:
            raise ValueError("a guided target needs a condition; set conditioner=label, or objective.scales=null")
        without = average_velocity(denoiser, x, t, t, cond.drop())
        guided = combine(scale, v, 1 - scale - self.mixture, without)
        if self.mixture:
            guided = guided + self.mixture * average_velocity(denoiser, x, t, t, cond)
        dropped = None if cond.source is None else cond.source.get(DROPPED)
        return guided if dropped is None else torch.where(expand(dropped.to(x.device), x), v, guided)
