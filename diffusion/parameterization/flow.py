"""The velocity of a straight path as target."""

from __future__ import annotations

from diffusion.parameterization.base import Coefficient, Parameterization


class FlowParameterization(Parameterization):
    """target = eps - x_0 (Liu et al. 2023, eq. 1, from data to noise). Defined at every level of every schedule.

    learned_variance: twice the channels, the second half for the reverse variance (Nichol & Dhariwal 2021, eq. 15).
    """

    def __init__(self, learned_variance: bool = False) -> None:
        self.learned_variance = learned_variance

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        return -1.0, 1.0
