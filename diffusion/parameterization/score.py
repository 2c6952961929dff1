"""The score of the perturbation kernel as target."""

from __future__ import annotations

from diffusion.parameterization.base import Coefficient, Parameterization


class ScoreParameterization(Parameterization):
    """target = grad log p(x_t | x_0) = -eps / sigma (Song et al. 2021, eq. 7). Undefined at both ends.

    Its paper weights the error by sigma^2, which is ``objective/weighting=snr``.

    learned_variance: twice the channels, the second half for the reverse variance (Nichol & Dhariwal 2021, eq. 15).
    """

    def __init__(self, learned_variance: bool = False) -> None:
        self.learned_variance = learned_variance

    def coefficients(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        if isinstance(sigma, float) and sigma == 0.0:
            raise ValueError(
                "the score is infinite on clean data (sigma = 0); a sampler must not call the network there"
            )
        return 0.0, -1 / sigma
