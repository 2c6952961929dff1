"""The velocity along the circle of a variance-preserving path."""

from __future__ import annotations

from diffusion.parameterization.base import Coefficient, Parameterization


class VelocityParameterization(Parameterization):
    """target = v = alpha eps - sigma x_0 (Salimans & Ho 2022, section 4). Defined at every level, alpha = 0 included.

    learned_variance: twice the channels, the second half for the reverse variance (Nichol & Dhariwal 2021, eq. 15).
    """

    def __init__(self, learned_variance: bool = False) -> None:
        self.learned_variance = learned_variance

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        return -sigma, alpha
