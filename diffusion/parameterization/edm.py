"""EDM's preconditioned target."""

from __future__ import annotations

from diffusion.parameterization.base import Coefficient, Parameterization


class EDMParameterization(Parameterization):
    """target = F of D = c_skip y + c_out F, whose input and output have unit variance (Karras et al. 2022, eqs. 7-8).

    Stated for y = x / alpha at noise sigma / alpha, for any schedule. With s^2 = sigma^2 + alpha^2 sigma_data^2,
    F = sigma / (sigma_data s) x_0 - alpha sigma_data / s eps, and the network sees x / s; it is -v where sigma_data = 1
    and alpha^2 + sigma^2 = 1. Goes with ``objective/weighting=edm``, which makes the weight on F's error 1.

    sigma_data: standard deviation of the data.
    learned_variance: twice the channels, the second half for the reverse variance (Nichol & Dhariwal 2021, eq. 15).
    """

    def __init__(self, sigma_data: float = 0.5, learned_variance: bool = False) -> None:
        if not sigma_data > 0:
            raise ValueError(f"sigma_data is above 0, got {sigma_data}; set parameterization.sigma_data")
        self.sigma_data = sigma_data
        self.learned_variance = learned_variance

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        s = self._spread(alpha, sigma)
        return sigma / (self.sigma_data * s), -alpha * self.sigma_data / s

    def input_scale(self, alpha: Coefficient, sigma: Coefficient) -> Coefficient:
        return 1 / self._spread(alpha, sigma)

    def _spread(self, alpha: Coefficient, sigma: Coefficient) -> Coefficient:
        return (sigma**2 + (alpha * self.sigma_data) ** 2) ** 0.5
