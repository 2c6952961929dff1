"""No condition."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from diffusion.conditioner.base import Conditioner
from diffusion.types import Cond


class NoConditioner(Conditioner):
    """An unconditional model: whatever else the batch says is ignored."""

    def forward(self, batch: Mapping[str, Tensor]) -> Cond:
        return Cond()
