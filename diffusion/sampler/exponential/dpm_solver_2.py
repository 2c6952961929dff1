"""DPM-Solver-2, single step."""

from __future__ import annotations

from diffusion.sampler.exponential.single_step import MIDPOINT, SingleStepSampler


class DPMSolver2Sampler(SingleStepSampler):
    """The exponential midpoint rule on E[eps | x] in lam (Lu et al. 2022, DPM-Solver, Algorithm 1, r_1 = 1/2)."""

    order = 2
    answer = "eps"
    tableau = MIDPOINT
