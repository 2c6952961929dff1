"""Truncated SNR: noisy levels do not count less than a bound."""

from __future__ import annotations

from torch import Tensor

from diffusion.objective.base import Weighting


class TruncatedSNRWeighting(Weighting):
    """max(SNR, 1) on the x_0 error: the larger of the errors of x_0 and eps (Salimans & Ho 2022, section 4)."""

    def on_x0(self, log_snr: Tensor) -> Tensor:
        return log_snr.clamp(min=0).exp()
