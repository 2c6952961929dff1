"""The data as target."""

from __future__ import annotations

from diffusion.parameterization.base import Coefficient, Parameterization


class X0Parameterization(Parameterization):
    """target = x_0 (Ho et al. 2020, section 3.2). Undefined where sigma = 0, which is the data itself.

    learned_variance: twice the channels, the second half for the reverse variance (Nichol & Dhariwal 2021, eq. 15).
    """

    def __init__(self, learned_variance: bool = False) -> None:
        self.learned_variance = learned_variance

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        return 1.0, 0.0
