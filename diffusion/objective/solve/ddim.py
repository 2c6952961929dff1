"""DDIM's step, which is Euler's."""

from __future__ import annotations

from torch import Tensor

from diffusion.objective.solve.base import Solve
from diffusion.types import Cond, Denoiser


class DDIMSolve(Solve):
    """x_s = alpha_s x_0 + sigma_s eps (Song et al. 2021, eq. 12 with eta = 0): Euler's step in n. One call."""

    def __call__(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        return denoiser(x, t, cond).at(denoiser.schedule, s)
