"""DPM-Solver-3, single step."""

from __future__ import annotations

from diffusion.sampler.exponential.single_step import THIRDS, SingleStepSampler
from diffusion.types import Spacing


class DPMSolver3Sampler(SingleStepSampler):
    """Third-order exponential Runge-Kutta on E[eps | x] in lam (Lu et al. 2022, DPM-Solver, Algorithm 2)."""

    order = 3
    answer = "eps"
    tableau = THIRDS

    def __init__(self, steps: int = 7, spacing: Spacing | None = None) -> None:
        super().__init__(steps, spacing)
