"""DPM-Solver-3, single step."""

from __future__ import annotations

from diffusion.sampler.exponential.single_step import THIRDS, SingleStepSampler


class DPMSolver3Sampler(SingleStepSampler):
    """Third-order exponential Runge-Kutta on E[eps | x] in lam (Lu et al. 2022, DPM-Solver, Algorithm 2)."""

    order = 3
    answer = "eps"
    tableau = THIRDS
