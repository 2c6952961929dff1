"""Adaptive Runge-Kutta 4(5) as a black box."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffusion.sampler.angle_ode import angle, integrate, radius, velocity
from diffusion.sampler.base import Denoise, Sampler
from diffusion.schedule.base import Level, Schedule
from diffusion.types import RandnLike, Spacing


class RK45Sampler(Sampler):
    """The probability-flow ODE by adaptive Dormand-Prince (Song et al. 2021, score SDE, appendix D.4), torchdiffeq's.

    The number of calls is the solver's choice; a step of the sampler is only a place to stop. The solver chooses its
    steps for the whole batch, so that sample i depends on the others by as much as the tolerances allow.

    Args:
        steps: stops on the way; 1 leaves everything to the solver.
        rtol, atol: tolerances of one solver step.
        end: the time where the solver stops; from there one DDIM step to clean data.

    Raises:
        ImportError: torchdiffeq is not installed.
        ValueError: a tolerance that is not above 0, or an end outside (0, 1).
    """

    order = 5
    invertible = True

    def __init__(
        self,
        steps: int = 1,
        spacing: Spacing | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        end: float = 1e-3,
    ) -> None:
        super().__init__(steps, spacing)
        if not (rtol > 0 and atol > 0 and 0 < end < 1):
            raise ValueError(
                f"rtol and atol are above 0 and end is a time in (0, 1), got {rtol}, {atol} and {end}; set sampler.rtol"
            )
        self.rtol = rtol
        self.atol = atol
        self.end = end

    def inverse_levels(self, schedule: Schedule, to: float) -> list[Level]:
        *noisy, clean = super().inverse_levels(schedule, to)
        return [*noisy, *([schedule.level(self.end)] if noisy[-1].t > self.end else []), clean]

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: Any, randn_like: RandnLike
    ) -> tuple[Tensor, None]:
        if nxt.sigma > 0:
            return self._solve(denoise, x, cur, nxt), None
        if cur.t > self.end:
            stop = denoise.schedule.level(self.end)
            x, cur = self._solve(denoise, x, cur, stop), stop
        last = denoise(x, cur.t)
        return last.mix(nxt.alpha, nxt.sigma), None

    def _solve(self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level) -> Tensor:
        u = integrate(
            lambda phi, u: velocity(denoise, u, phi, (cur, nxt)),
            x / radius(cur),
            angle(cur),
            angle(nxt),
            self.rtol,
            self.atol,
        )
        return u * radius(nxt)
