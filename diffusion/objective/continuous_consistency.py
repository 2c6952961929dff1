"""Consistency in continuous time: the derivative along the path takes the place of a neighbour on it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffusion.denoiser import NetworkDenoiser
from diffusion.objective.base import Loss, Objective, Step, TimeDistribution
from diffusion.objective.consistency import check_boundary
from diffusion.objective.flow_map import Rates, along, check_smooth, rates
from diffusion.parameterization.edm import EDMParameterization
from diffusion.randomness import GlobalRandomness, Randomness
from diffusion.types import Cond, Prediction, combine, scale, to_device_async


class ContinuousConsistencyObjective(Objective):
    r"""e^{w(a)} / d ||F - F' - g||^2 - w(a): consistency in the limit of neighbours (Lu & Song 2025, algorithm 1).

    With a = atan(sigma / (alpha sigma_data)), every schedule is the circle x = cos(a) x_0 + sin(a) sigma_data eps, and
    f(x, a) = cos(a) x - sin(a) sigma_data F the student's x_0. F' is F without a gradient, and the tangent is
    cos(a) df/da along the path of the data and noise,

        g = -cos(a)^2 (sigma_data F' - dx/da) - r cos(a) sin(a) (x + sigma_data dF'/da),

    with r = min(1, k / warmup) at step k, divided by its norm + ``normalization``. w is learned, and is in
    ``extra``: it makes the loss of each level about 1.

    Args:
        time_distribution: of the levels.
        sigma_data: standard deviation of the data.
        warmup: steps until the derivative of F counts as a whole.
        normalization: added to the norm, over all elements, that tangents are divided by; as they are where ``None``.
        adaptive: learn w; 0 otherwise.

    Raises:
        ValueError: a spread or normalization that is not above 0, a negative warmup.
    """

    def __init__(
        self,
        time_distribution: TimeDistribution,
        sigma_data: float = 0.5,
        warmup: int = 10_000,
        normalization: float | None = 0.1,
        adaptive: bool = True,
    ) -> None:
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"the data's spread is above 0, got {sigma_data}; set objective.sigma_data")
        if not warmup >= 0:
            raise ValueError(f"a warm-up takes 0 steps or more, got {warmup}; set objective.warmup")
        if normalization is not None and not normalization > 0:
            raise ValueError(
                f"tangents are divided by their norm and a number above 0, or not at all for null, got "
                f"{normalization}; set objective.normalization"
            )
        self.time_distribution = time_distribution
        self.sigma_data, self.warmup, self.normalization = sigma_data, warmup, normalization
        self.extra: Mapping[str, nn.Module] = {"weight": LevelWeight()} if adaptive else {}

    def check(self, denoiser: NetworkDenoiser) -> None:
        check_smooth(denoiser.schedule, "continuous consistency")
        check_boundary(denoiser)
        self.time_distribution.check(denoiser.schedule)

    def direction(
        self,
        denoiser: NetworkDenoiser,
        x: Tensor,
        t: Tensor,
        x0: Tensor,
        eps: Tensor,
        cond: Cond,
        randomness: Randomness,
    ) -> tuple[Prediction, Cond]:
        """The data and noise (B, ...) along whose path x at t moves, and the student's condition; called without
        gradients."""
        return Prediction(x0, eps), cond

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
        t = to_device_async(self.time_distribution(denoiser, randomness)[0], x0.device)
        eps = randomness.randn_like(x0)
        at = rates(denoiser.schedule, t)
        x = combine(at.alpha, x0, at.sigma, eps)
        with torch.no_grad():
            way, cond = self.direction(denoiser, x, t, x0, eps, cond, randomness)
        target = EDMParameterization(self.sigma_data)

        def answer(x: Tensor, t: Tensor) -> Tensor:
            said = denoiser(x, t, cond)
            return -target.encode(said.x0, said.eps, *denoiser.schedule.coefficients(t))

        s = (at.sigma**2 + (at.alpha * self.sigma_data) ** 2).sqrt()
        cos, sin = self.sigma_data * at.alpha / s, at.sigma / s
        dt = cos * sin / self.turning(at)
        F, rate = along(answer, x, t, combine(dt * at.d_alpha, way.x0, dt * at.d_sigma, way.eps), dt)
        still = F.detach()
        moving = combine(cos * self.sigma_data, way.eps, -sin, way.x0)
        r = 1.0 if step is None or step.number >= self.warmup else step.number / self.warmup
        circle = scale(self.sigma_data / s, x)
        g = scale(-(cos**2), self.sigma_data * still - moving)
        g = g - r * (scale(cos * sin, circle) + self.sigma_data * rate)
        if self.normalization is not None:
            norm = g.flatten(1).norm(dim=1)
            g = scale(1 / (norm + self.normalization), g)
        mse = (F - still - g).square().flatten(1).mean(1)
        w = self.extra["weight"](torch.atan2(sin, cos)).to(mse) if self.extra else torch.zeros_like(mse)
        return Loss(w.exp() * mse - w, {"tangent": mse}, t)

    def turning(self, at: Rates) -> Tensor:
        """da/dt (B,)."""
        apart = at.d_sigma * at.alpha - at.sigma * at.d_alpha
        return self.sigma_data * apart / (at.sigma**2 + (at.alpha * self.sigma_data) ** 2)


class LevelWeight(nn.Module):
    """w(a) = sum over k < ``terms`` of weight_k cos(2 k a), of an angle a in [0, pi / 2]; 0 at first."""

    def __init__(self, terms: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(terms))

    def forward(self, angle: Tensor) -> Tensor:
        """(B,) radians -> (B,)."""
        k = torch.arange(len(self.weight), device=angle.device)
        return torch.cos(2 * k * angle[:, None]).to(self.weight) @ self.weight
