"""The noise as target."""

from __future__ import annotations

from diffusion.parameterization.base import Coefficient, Parameterization


class EpsilonParameterization(Parameterization):
    """target = eps (Ho et al. 2020, eq. 14). Undefined where alpha = 0.

    learned_variance: twice the channels, the second half for the reverse variance (Nichol & Dhariwal 2021, eq. 15).
    """

    def __init__(self, learned_variance: bool = False) -> None:
        self.learned_variance = learned_variance

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        return 0.0, 1.0
