"""Networks: f(x, label, cond) -> tensor. They know neither schedule nor target.

``x`` (B, C, H, W) arrives scaled by the parameterization; ``label`` (B,) float is what the schedule tells of the
noise level (a DDPM index, log(sigma)/4, or t); ``cond`` carries the condition, one slot a mechanism.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from diffusion.types import Cond


class Network(nn.Module, ABC):
    """The trainable function of an experiment."""

    @abstractmethod
    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        """x (B, C, H, W), label (B,) float, cond -> (B, out_channels, H, W)."""
