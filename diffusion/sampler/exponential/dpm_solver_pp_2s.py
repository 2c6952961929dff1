"""DPM-Solver++ (2S), single step."""

from __future__ import annotations

from diffusion.sampler.exponential.single_step import MIDPOINT, SingleStepSampler


class DPMSolverPP2SSampler(SingleStepSampler):
    """The exponential midpoint rule on E[x_0 | x] in lam (Lu et al. 2022b, DPM-Solver++, Algorithm 1, r = 1/2)."""

    order = 2
    answer = "x0"
    tableau = MIDPOINT
