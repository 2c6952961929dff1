"""SNR + 1: the error of v, whatever is trained."""

from __future__ import annotations

from torch import Tensor

from diffusion.objective.base import Weighting


class SNRPlusOneWeighting(Weighting):
    """SNR + 1 on the x_0 error, so 1 on v's (Salimans & Ho 2022, section 4)."""

    def on_x0(self, log_snr: Tensor) -> Tensor:
        return log_snr.exp() + 1
