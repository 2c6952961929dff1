"""The transformer of latent diffusion's U-Net (Rombach et al. 2022, section 3.3 and appendix E.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.network.attention import CrossAttention, SelfAttention
from diffusion.network.base import zero_
from diffusion.network.blocks import Context, group_norm, to_image, to_tokens

EPS = 1e-6
"""Of the group norm before the blocks, whatever that of the U-Net."""
WIDENING = 4
"""Channels inside the feed-forward, as a multiple of those outside."""


class TransformerBlock(nn.Module):
    """h + self-attention, then + cross-attention, then + feed-forward, each of a layer norm of h; the feed-forward is
    W2 (a gelu(b)), (a, b) = W1 h (GEGLU, Shazeer 2020). Queries, keys and values have no bias.

    token_dim: width of the condition's tokens; 0 leaves out the cross-attention.
    """

    def __init__(self, channels: int, token_dim: int = 0, heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = SelfAttention(channels, heads, bias=False)
        self.norm2 = nn.LayerNorm(channels) if token_dim else None
        self.cross = CrossAttention(channels, token_dim, heads, bias=False) if token_dim else None
        self.norm3 = nn.LayerNorm(channels)
        self.gate = nn.Linear(channels, 2 * WIDENING * channels)
        self.out = nn.Linear(WIDENING * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        if self.cross is not None and self.norm2 is not None:
            assert context.tokens is not None  # the network checked
            tokens = tokens + self.dropout(self.cross(self.norm2(tokens), context.tokens, context.mask))
        value, gate = self.gate(self.norm3(tokens)).chunk(2, dim=-1)
        return tokens + self.out(self.dropout(value * F.gelu(gate)))


class SpatialTransformer(nn.Module):
    """Norm, a linear map (in published codes also written as a 1x1 convolution), ``depth`` blocks over all positions, a
    linear map that starts at zero, added to the input.

    Args:
        channels: C of x (B, C, H, W).
        depth: transformer blocks.
        token_dim: width of ``Context.tokens``, 0 for none.
        heads: of every attention.
        groups: of the norm; see :func:`group_norm`.
    """

    def __init__(
        self,
        channels: int,
        depth: int = 1,
        token_dim: int = 0,
        heads: int = 1,
        dropout: float = 0.0,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, EPS, groups)
        self.proj_in = nn.Linear(channels, channels)
        self.stack = nn.ModuleList(TransformerBlock(channels, token_dim, heads, dropout) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels)
        self.start_at_zero()

    def start_at_zero(self) -> None:
        zero_(self.proj_out)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        tokens = self.proj_in(to_tokens(self.norm(x)))
        for block in self.stack:
            tokens = block(tokens, context)
        return x + to_image(self.proj_out(tokens), x)
