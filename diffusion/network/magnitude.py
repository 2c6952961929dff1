"""Layers that keep the expected magnitude of what passes through them (Karras et al. 2024, EDM2, section 2 and appendix
B): of an input with unit variance the output has unit variance."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-4
SILU = 0.596
"""Root mean square of SiLU of a standard normal number (eq. 81)."""


def normalized(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x over its root mean square along ``dim``, a small number added (of weights: eq. 66)."""
    dims = (dim,) if isinstance(dim, int) else dim
    count = math.prod(x.shape[d] for d in dims)
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return x / (EPS + norm / math.sqrt(count)).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """SiLU, scaled (eq. 81)."""
    return F.silu(x) / SILU


def mixed(a: Tensor, b: Tensor, t: float) -> Tensor:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2), for independent a and b (eq. 88)."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def joined(a: Tensor, b: Tensor, t: float) -> Tensor:
    """a and b one after the other along the channels, of which they contribute 1 - t and t (eq. 103)."""
    m, n = a.shape[1], b.shape[1]
    scale = math.sqrt((m + n) / ((1 - t) ** 2 + t**2))
    return torch.cat((a * (scale * (1 - t) / math.sqrt(m)), b * (scale * t / math.sqrt(n))), dim=1)


class MagnitudeConv(nn.Module):
    """A convolution, or with ``kernel=0`` a linear map, without bias, whose filters have norm 1 whatever the weights
    (eq. 47 and section 2.4)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, *(kernel, kernel) if kernel else ()))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """x (B, c_in) or (B, c_in, H, W); the gain multiplies the result."""
        weight = normalized(self.weight, tuple(range(1, self.weight.ndim)))
        weight = (weight * (gain / math.sqrt(weight[0].numel()))).to(x.dtype)
        return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    @torch.no_grad()
    def force(self) -> None:
        """Weights onto the sphere, so that the optimizer's steps keep their relative size (section 2.4)."""
        self.weight.copy_(normalized(self.weight, tuple(range(1, self.weight.ndim))))


class MagnitudeFourier(nn.Module):
    """x (B,) -> sqrt(2) cos(frequency x + phase) (B, features), frequencies and phases drawn once (eq. 75)."""

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(features))
        self.register_buffer("phases", 2 * math.pi * torch.rand(features))

    def forward(self, x: Tensor) -> Tensor:
        return math.sqrt(2) * (x[:, None] * self.frequencies.to(x.dtype) + self.phases.to(x.dtype)).cos()
