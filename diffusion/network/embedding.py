"""What modulates every block: the noise level and ``Cond.vector``, in float32 whatever the rest runs in."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_PERIOD = 10_000.0


class Embedding(nn.Module):
    """c_noise (B,), vector (B, cond_dim) -> (B, width), after SiLU (once, not once a block).

    Sinusoids of c_noise (Vaswani et al. 2017, section 3.5), Linear, SiLU, Linear; the vector is added, as it is
    where it has the same width, else through a linear map.

    Args:
        features: number of sinusoids, even.
        width: of the result.
        cond_dim: width of ``Cond.vector``, 0 for none.
        shift: the frequencies are 10000^(-i / (half - shift)) for i < half: 1 in DDPM's code, 0 in ADM's.
        sine_first: sines before cosines (DDPM) or after (ADM); a checkpoint depends on it, training does not.
    """

    def __init__(self, features: int, width: int, cond_dim: int = 0, shift: int = 1, sine_first: bool = True) -> None:
        super().__init__()
        if features < 4 or features % 2:
            raise ValueError(f"a time embedding needs an even number of sinusoids, at least 4, got {features}")
        self.cond_dim = cond_dim
        self.shift = shift
        self.frequencies = features // 2
        self.sine_first = sine_first
        self.linear1 = nn.Linear(features, width)
        self.linear2 = nn.Linear(width, width)
        self.condition = nn.Linear(cond_dim, width) if cond_dim not in (0, width) else None

    def forward(self, c_noise: Tensor, vector: Tensor | None = None) -> Tensor:
        self.check(vector)
        with torch.autocast(c_noise.device.type, enabled=False):
            dtype = self.linear1.weight.dtype
            features = self.sinusoids(c_noise if c_noise.dtype == torch.float64 else c_noise.float())
            emb = self.linear2(F.silu(self.linear1(features.to(dtype))))
            if vector is not None:
                emb = emb + (vector if self.condition is None else self.condition(vector.to(dtype)))
            return F.silu(emb)

    def check(self, vector: Tensor | None) -> None:
        """Refuses a ``Cond.vector`` of another width than ``cond_dim``."""
        given = 0 if vector is None else vector.shape[-1]
        if given != self.cond_dim:
            raise ValueError(
                f"this network was built for a condition vector of width {self.cond_dim} (0 = none) and was given one "
                f"of width {given}; network.cond_dim must equal conditioner.dim"
            )

    def sinusoids(self, c_noise: Tensor) -> Tensor:
        """(B,) -> (B, features), in c_noise's dtype: c_noise in bf16 would not tell index 900 from 901."""
        i = torch.arange(self.frequencies, dtype=c_noise.dtype, device=c_noise.device)
        angle = c_noise[:, None] * torch.exp(i * (-math.log(MAX_PERIOD) / (self.frequencies - self.shift)))
        parts = (angle.sin(), angle.cos()) if self.sine_first else (angle.cos(), angle.sin())
        return torch.cat(parts, dim=1)
