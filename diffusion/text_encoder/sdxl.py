"""The two text encoders of SDXL (Podell et al. 2023, section 2.1) as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diffusion.text_encoder.base import Encoded, TextEncoder


class SDXLTextEncoder(TextEncoder):
    """The tokens of two CLIP towers side by side, and the vector of the second.

    Args:
        clip_l, clip_g: the towers, of one length; only the second one's vector is read.
        dim: of a token, the sum of the towers'.
        pooled_dim: of the second tower.

    Raises:
        ValueError: widths or lengths that are not the towers'.
    """

    def __init__(self, clip_l: TextEncoder, clip_g: TextEncoder, dim: int = 2048, pooled_dim: int = 1280) -> None:
        super().__init__(dim, pooled_dim, clip_g.length)
        if dim != clip_l.dim + clip_g.dim:
            raise ValueError(f"text_encoder.dim is that of both towers, {clip_l.dim + clip_g.dim}, got {dim}")
        if pooled_dim != clip_g.pooled_dim:
            raise ValueError(f"text_encoder.pooled_dim is clip_g's, {clip_g.pooled_dim}, got {pooled_dim}")
        if clip_l.length != clip_g.length:
            raise ValueError(f"both towers have one length, got {clip_l.length} and {clip_g.length} tokens")
        self.clip_l, self.clip_g = clip_l, clip_g

    @property
    def padded(self) -> bool:
        return self.clip_l.padded and self.clip_g.padded

    def forward(self, texts: Sequence[str]) -> Encoded:
        first, second = self.clip_l(texts), self.clip_g(texts)
        return Encoded(torch.cat((first.tokens, second.tokens), dim=2), first.mask | second.mask, second.pooled)
