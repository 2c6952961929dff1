"""No weighting: the error of whatever the network predicts."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion.objective.base import Weighting


class ConstantWeighting(Weighting):
    """1 on the target's own squared error, whatever the target: L_simple (Ho et al. 2020, eq. 14) for the noise.

    The one weighting that depends on the target; 1 on the x_0 error is this one with ``parameterization=x0``.
    """

    def on_x0(self, log_snr: Tensor) -> Tensor:
        return torch.ones_like(log_snr)

    def on_target(self, log_snr: Tensor, gain: Tensor) -> Tensor:
        return torch.ones_like(log_snr)
