"""Sigmoid weighting: imperceptible detail counts less and less."""

from __future__ import annotations

import math

from torch import Tensor

from diffusion.objective.base import Weighting


class SigmoidWeighting(Weighting):
    """sigmoid(bias - log SNR) on the noise's error, so exp(bias) sigmoid(log SNR - bias) on the x_0 error.

    Kingma & Gao 2023; Hoogeboom et al. 2024 (SiD2). Both multiply by -d log SNR / dt, which makes the loss independent
    of how times are drawn; here the density of levels is that of the times and the schedule.

    bias: 2 in the first paper; larger favours detail.
    """

    def __init__(self, bias: float = 2.0) -> None:
        self.bias = float(bias)

    def on_x0(self, log_snr: Tensor) -> Tensor:
        return math.exp(self.bias) * (log_snr - self.bias).sigmoid()
