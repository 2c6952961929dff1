"""SDE-DPM-Solver++ (2M)."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.sampler.base import Denoise, Sampler
from diffusion.sampler.exponential.dpm_solver_pp_2m import State
from diffusion.schedule.base import Level
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.types import RandnLike, Spacing, combine


class DPMSolverPP2MSDESampler(Sampler):
    """Two-step exponential integrator of the reverse SDE in lam (Lu et al. 2022b, SDE-DPM-Solver++ 2M).

        x_s = sigma_s / sigma_t e^{-eta h} x_t + alpha_s (1 - e^{-(1 + eta) h}) D + sigma_s sqrt(1 - e^{-2 eta h}) z

    with h and D of DPM-Solver++ (2M), which it is at eta 0; eta 1 is the SDE of the paper. Weak order 2.

    Args:
        eta: share of the SDE's noise, in [0, 1].

    Raises:
        ValueError: eta outside [0, 1].
    """

    order = 2
    spacing = LogSNRSpacing()
    noiseless = "eta=0"

    def __init__(self, steps: int = 25, spacing: Spacing | None = None, eta: float = 1.0) -> None:
        super().__init__(steps, spacing)
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"eta lies in [0, 1] (0 = the ODE, 1 = the SDE), got {eta}; set sampler.eta")
        self.eta = float(eta)
        self.invertible = self.eta == 0

    def step(
        self, denoise: Denoise, x: Tensor, cur: Level, nxt: Level, state: State | None, randn_like: RandnLike
    ) -> tuple[Tensor, State]:
        x0 = denoise(x, cur.t).x0
        if nxt.sigma == 0:
            return x0 * nxt.alpha, (cur, x0)
        h = nxt.lam - cur.lam
        decay = math.exp(-self.eta * h) if self.eta > 0 else 1.0
        gain = nxt.alpha - cur.alpha * nxt.sigma / cur.sigma * decay
        out = combine(nxt.sigma / cur.sigma * decay, x, gain, x0)
        if state is not None and state[0].alpha > 0:
            slope = gain * h / (2 * (cur.lam - state[0].lam))
            out = out.add(x0, alpha=slope).sub_(state[1], alpha=slope)
        if self.eta > 0:
            out = combine(1.0, out, nxt.sigma * math.sqrt(1 - decay**2), randn_like(x))
        return out, (cur, x0)
