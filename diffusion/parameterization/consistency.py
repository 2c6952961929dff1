"""The target of consistency models: EDM's, with the identity at the smallest noise."""

from __future__ import annotations

from torch import Tensor

from diffusion.parameterization.base import Coefficient
from diffusion.parameterization.edm import EDMParameterization
from diffusion.parameterization.solved import Solved, Source
from diffusion.types import Prediction


class ConsistencyParameterization(EDMParameterization):
    """f(y, n) = c_skip y + c_out F of y = x / alpha at the noise n = sigma / alpha (Song et al. 2023, appendix C):

        c_skip = sigma_data^2 / ((n - sigma_min)^2 + sigma_data^2)
        c_out  = sigma_data (n - sigma_min) / sqrt(n^2 + sigma_data^2)

    so that f is the identity at sigma_min, where the target is undefined.

    sigma_data: standard deviation of the data.
    sigma_min: the noise at which f(y) = y, at least 0; EDM's parameterization where it is 0.
    """

    def __init__(self, sigma_data: float = 0.5, sigma_min: float = 0.002, learned_variance: bool = False) -> None:
        super().__init__(sigma_data, learned_variance)
        if not sigma_min >= 0:
            raise ValueError(f"sigma_min is at least 0, got {sigma_min}; set parameterization.sigma_min")
        self.sigma_min = sigma_min

    def shares(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        """(c_skip, c_out) of y."""
        noise = sigma / alpha
        past = noise - self.sigma_min
        c_skip = self.sigma_data**2 / (past**2 + self.sigma_data**2)
        return c_skip, self.sigma_data * past / (noise**2 + self.sigma_data**2) ** 0.5

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        c_skip, c_out = self.shares(alpha, sigma)
        return (1 - c_skip) / c_out, -c_skip * (sigma / alpha) / c_out

    def decode(self, output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> Prediction:
        output, var_mix = self.split(output)
        c_skip, c_out = self.shares(alpha, sigma)
        of_eps = (1 - c_skip) / sigma, -alpha * c_out / sigma
        return Solved(None, None, var_mix, Source(x, output, (c_skip / alpha, c_out), of_eps))
