"""Moment matching: the exact covariance of x_0, by few products with it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from diffusion.guidance.base import with_x0
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.guidance.posterior_covariance import moments
from diffusion.operator.base import Operator
from diffusion.operator.conjugate_gradients import conjugate_gradients
from diffusion.operator.minimal_residual import minimal_residual
from diffusion.types import Cond, Denoiser, Prediction

SOLVERS = {"gmres": minimal_residual, "cg": conjugate_gradients}


class MMPSGuidance(MeasurementGuidance):
    """E[x_0 | x_t, y] = D + C A^T (A C A^T + noise^2 I)^-1 (y - A D) with D = E[x_0 | x_t] and C = Cov[x_0 | x_t], the
    inverse by products with A C A^T (Rozet et al. 2024, Learning diffusion priors from observations, section 4), in any
    sampler. Exact for Gaussian data once the iterations suffice.

    The paper has conjugate gradients. They are for symmetric matrices, which C of a learned denoiser is not, and less
    so where x_0 is clipped; on such they diverge, where the residual of GMRES cannot grow.

    Args:
        operator, measurement, simulate: see :class:`MeasurementGuidance`.
        noise: standard deviation of the measurement's noise.
        iterations: of the solver; each costs a backward pass.
        solver: ``gmres`` or ``cg``, conjugate gradients.
    """

    needs_grad = True
    key = "guidance.mmps"

    def __init__(
        self,
        denoiser: Denoiser,
        operator: Operator,
        measurement: Tensor | str,
        simulate: bool = True,
        noise: float = 0.01,
        iterations: int = 1,
        solver: Literal["gmres", "cg"] = "gmres",
    ) -> None:
        if not noise > 0 or iterations < 1:
            raise ValueError(
                f"noise is above 0 and iterations at least 1, got noise={noise} and iterations={iterations}; set "
                f"{self.key}"
            )
        if solver not in SOLVERS:
            raise ValueError(f"solver is one of {' and '.join(SOLVERS)}, got {solver!r}; set {self.key}.solver")
        super().__init__(denoiser, operator, measurement, simulate)
        self.noise, self.iterations, self.solver = noise, iterations, solver

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        found = moments(self.denoiser, x, t, cond)
        if found is None:
            return self.denoiser(x, t, cond)
        x0, shape = found.prediction.x0, tuple(x.shape)
        residual = self.y(x) - self.operator(x0)

        def spread(v: Tensor) -> Tensor:
            return self.operator(found.covariance(self.operator.adjoint(v, shape))) + self.noise**2 * v

        solved = SOLVERS[self.solver](spread, residual, self.iterations)
        x0 = x0 + found.covariance(self.operator.adjoint(solved, shape))
        return with_x0(self.schedule, found.prediction, x0, x, t)
