"""Min-SNR without its corner."""

from __future__ import annotations

from torch import Tensor

from diffusion.objective.base import Weighting


class SoftMinSNRWeighting(Weighting):
    """SNR gamma / (SNR + gamma) on the x_0 error (Crowson et al. 2024, section 3.4).

    gamma: 4 in the paper, 1 / sigma_data^2 for EDM's sigma_data of 0.5.
    """

    def __init__(self, gamma: float = 4.0) -> None:
        if not gamma > 0:
            raise ValueError(f"soft-min-SNR takes gamma > 0, got {gamma}; set objective.weighting.gamma")
        self.gamma = gamma

    def on_x0(self, log_snr: Tensor) -> Tensor:
        return self.gamma / (1 + self.gamma * (-log_snr).exp())
