"""EDM's weighting: equal for every level on the preconditioned target."""

from __future__ import annotations

from torch import Tensor

from diffusion.objective.base import Weighting


class EDMWeighting(Weighting):
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on the x_0 error, sigma the noise (Karras et al. 2022, table 1).

    In SNR = 1 / sigma^2 it is SNR + 1 / sigma_data^2.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not sigma_data > 0:
            raise ValueError(f"sigma_data is above 0, got {sigma_data}; set objective.weighting.sigma_data")
        self.sigma_data = sigma_data

    def on_x0(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + self.sigma_data**-2
