"""The noise level as a vector: sinusoids of the label and a small MLP, in float32 whatever the rest runs in."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PERIOD = 10_000.0


class TimeEmbedding(nn.Module):
    """label (B,) -> (B, width): sinusoids (Vaswani et al. 2017, section 3.5), Linear, SiLU, Linear.

    Args:
        features: number of sinusoids, even.
        width: of the result.
        shift: the frequencies are max_period^(-i / (half - shift)) for i < half: 1 in DDPM's code, 0 in ADM's.
        sine_first: sines before cosines (DDPM) or after (ADM); a checkpoint depends on it, training does not.
    """

    def __init__(self, features: int, width: int, shift: int = 1, sine_first: bool = True) -> None:
        super().__init__()
        if features < 4 or features % 2:
            raise ValueError(f"a time embedding needs an even number of sinusoids, at least 4, got {features}")
        self.shift = shift
        self.frequencies = features // 2
        self.sine_first = sine_first
        self.linear1 = nn.Linear(features, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, label: Tensor) -> Tensor:
        with torch.autocast(label.device.type, enabled=False):
            dtype = self.linear1.weight.dtype
            features = self.sinusoids(label if label.dtype == torch.float64 else label.float())
            return self.linear2(F.silu(self.linear1(features.to(dtype))))

    def sinusoids(self, label: Tensor) -> Tensor:
        """(B,) -> (B, features), in label's dtype: a bf16 label would not tell index 900 from 901."""
        i = torch.arange(self.frequencies, dtype=label.dtype, device=label.device)
        angle = label[:, None] * torch.exp(i * (-math.log(MAX_PERIOD) / (self.frequencies - self.shift)))
        parts = (angle.sin(), angle.cos()) if self.sine_first else (angle.cos(), angle.sin())
        return torch.cat(parts, dim=1)
