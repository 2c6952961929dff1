"""Attention over tokens (B, N, C), shared by the U-Net and the transformers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

PLAIN_UP_TO = 4
"""Keys for each channel of a head up to which plain attention was measured to win in bf16 on a CPU."""


class SelfAttention(nn.Module):
    """Every token attends to every other (Vaswani et al. 2017, section 3.2).

    bias: queries, keys and values have one.
    qk_norm: queries and keys are divided by their RMS over a head, and scaled (Esser et al. 2024, section 5.3.2).
    """

    def __init__(self, channels: int, heads: int = 1, bias: bool = True, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.norm_q = nn.RMSNorm(channels // heads, eps=1e-6) if qk_norm else None
        self.norm_k = nn.RMSNorm(channels // heads, eps=1e-6) if qk_norm else None
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.merged(attend(*self.split(tokens)))

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> queries, keys and values (B, heads, N, d)."""
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.norm_q is not None and self.norm_k is not None:
            q = self.norm_q(q.to(self.norm_q.weight)).to(v)
            k = self.norm_k(k.to(self.norm_k.weight)).to(v)
        return q, k, v

    def merged(self, attended: Tensor) -> Tensor:
        """(B, heads, N, d) -> (B, N, C)."""
        return self.out(attended.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Every token attends to those of a condition (Rombach et al. 2022, section 3.3).

    bias: queries, keys and values have one.
    """

    def __init__(self, channels: int, token_dim: int, heads: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=bias)
        self.kv = nn.Linear(token_dim, 2 * channels, bias=bias)
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """tokens (B, N, C), context (B, L, D), mask (B, L) True where a token of the context counts -> (B, N, C)."""
        q = self.q(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context.to(tokens)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = attend(q, k, v, None if mask is None else mask.bool()[:, None, None, :])
        return self.out(attended.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for (B, heads, N, d); mask broadcasts to (B, heads, N, L), True where it counts.

    Fused, but for half precision on a CPU up to ``PLAIN_UP_TO`` keys for each channel of a head: there two plain matrix
    products take about half the time of torch's fused kernel (in float32 the two are equal).
    """
    if q.device.type == "cpu" and mask is None and q.dtype.itemsize == 2 and k.shape[2] <= PLAIN_UP_TO * q.shape[3]:
        weights = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3)
        return weights.softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def heads_of(width: int, heads: int, head_channels: int | None) -> int:
    """The number of heads over ``width`` channels: ``width / head_channels`` where that is given, else ``heads``."""
    count = heads if head_channels is None else width // head_channels
    if count < 1 or width % count or (head_channels is not None and width % head_channels):
        raise ValueError(
            f"attention over {width} channels cannot be split into "
            + (f"{heads} heads" if head_channels is None else f"heads of {head_channels} channels")
            + "; choose a divisor for network.heads or network.head_channels"
        )
    return count


def check_tokens(token_dim: int, tokens: Tensor | None) -> None:
    """Refuses ``Cond.tokens`` of another width than the network was built for (0 = none)."""
    given = 0 if tokens is None else tokens.shape[-1]
    if given != token_dim:
        raise ValueError(
            f"this network was built for condition tokens of width {token_dim} (0 = none) and was given {given}; "
            "network.token_dim must equal conditioner.token_dim, which is 0 for a network without cross-attention"
        )
