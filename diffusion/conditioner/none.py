"""No condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion.conditioner.base import Conditioner
from diffusion.types import Cond


class NoConditioner(Conditioner):
    """An unconditional model: every column of the batch is ignored."""

    def forward(self, batch: Mapping[str, Any]) -> Cond:
        return Cond()
