"""Min-SNR-gamma: cleaner levels do not count more than a bound."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.objective.base import Weighting


class MinSNRWeighting(Weighting):
    """min(SNR, gamma) on the x_0 error (Hang et al. 2023, section 3.4)."""

    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise ValueError(f"min-SNR takes gamma > 0, got {gamma}; set objective.weighting.gamma")
        self.gamma = gamma

    def on_x0(self, log_snr: Tensor) -> Tensor:
        return log_snr.clamp(max=math.log(self.gamma)).exp()
