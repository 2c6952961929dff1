"""P2: perception prioritized, less weight on the levels where only imperceptible detail is restored."""

from __future__ import annotations

from torch import Tensor

from diffusion.objective.base import Weighting


class P2Weighting(Weighting):
    """1 / (k + SNR)^gamma on the noise's error, so SNR / (k + SNR)^gamma on the x_0 error (Choi et al. 2022, eq. 8)."""

    def __init__(self, gamma: float = 1.0, k: float = 1.0) -> None:
        if not gamma >= 0 or not k > 0:
            raise ValueError(f"P2 takes gamma >= 0 and k > 0, got gamma={gamma}, k={k}; set objective.weighting")
        self.gamma = gamma
        self.k = k

    def on_x0(self, log_snr: Tensor) -> Tensor:
        snr = log_snr.exp()
        return snr / (self.k + snr) ** self.gamma
