"""Data and noise as targets together."""

from __future__ import annotations

from torch import Tensor

from diffusion.parameterization.base import Coefficient, Parameterization
from diffusion.types import Prediction, combine


class CombinedParameterization(Parameterization):
    """The network gives x~ and eps~, merged to x_0 = sigma^2 x~ + alpha (x - sigma eps~) and trained by the error of
    that x_0 (Salimans & Ho 2022, section 4).

    eps~ decides near the data and x~ near pure noise, so that it is defined at every level. Off the circle
    alpha^2 + sigma^2 = 1 it is the same for x, alpha and sigma divided by that root.

    learned_variance: a third group of channels, for the reverse variance (Nichol & Dhariwal 2021, eq. 15).
    """

    outputs = 2

    def __init__(self, learned_variance: bool = False) -> None:
        self.learned_variance = learned_variance

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        return 1.0, 0.0

    def answer(self, output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> Tensor:
        data, noise = self._parts(output, x)
        r = alpha**2 + sigma**2
        return combine(1.0, combine(sigma**2 / r, data, -alpha * sigma / r, noise), alpha / r, x)

    def decode(self, output: Tensor, x: Tensor, alpha: Coefficient, sigma: Coefficient) -> Prediction:
        data, noise = self._parts(output, x)
        r = alpha**2 + sigma**2
        return Prediction(
            x0=self.answer(output, x, alpha, sigma),
            eps=combine(1.0, combine(alpha**2 / r, noise, -alpha * sigma / r, data), sigma / r, x),
            var_mix=self.split(output)[1],
        )

    def _parts(self, output: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x~, eps~).

        Raises:
            ValueError: the network gives another number of channels.
        """
        output = self.split(output)[0]
        if output.shape[1] != 2 * x.shape[1]:
            raise ValueError(
                f"parameterization=combined needs x_0 and eps, {2 * x.shape[1]} channels, and the network gives "
                f"{output.shape[1]}; set network.outputs=2"
            )
        data, noise = output.chunk(2, dim=1)
        return data, noise
