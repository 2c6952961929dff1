"""DPM-Solver++ (3S), single step."""

from __future__ import annotations

from diffusion.sampler.exponential.single_step import THIRDS, SingleStepSampler
from diffusion.types import Spacing


class DPMSolverPP3SSampler(SingleStepSampler):
    """DPM-Solver-3's tableau (Lu et al. 2022, Algorithm 2) on E[x_0 | x] in lam (Lu et al. 2022b, eq. 8)."""

    order = 3
    answer = "x0"
    tableau = THIRDS

    def __init__(self, steps: int = 7, spacing: Spacing | None = None) -> None:
        super().__init__(steps, spacing)
