"""The three text encoders of Stable Diffusion 3 (Esser et al. 2024, section 4 and appendix B.3) as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from diffusion.text_encoder.base import Encoded, TextEncoder


class SD3TextEncoder(TextEncoder):
    """Two CLIP towers side by side, padded with zeros to T5's width, then T5's tokens; both towers' vectors as one.

    Args:
        clip_l, clip_g: the towers, of one length.
        t5: ``None`` leaves T5 out, with zeros for its tokens, as the model was trained to bear.
        dim: of a token, T5's; at least that of both towers.
        pooled_dim: of both towers.
        t5_length: tokens of T5.

    Raises:
        ValueError: widths or lengths that are not the encoders'.
    """

    def __init__(
        self,
        clip_l: TextEncoder,
        clip_g: TextEncoder,
        t5: TextEncoder | None = None,
        dim: int = 4096,
        pooled_dim: int = 2048,
        t5_length: int = 256,
    ) -> None:
        super().__init__(dim, pooled_dim, clip_l.length + t5_length)
        towers, vectors = clip_l.dim + clip_g.dim, clip_l.pooled_dim + clip_g.pooled_dim
        if pooled_dim != vectors:
            raise ValueError(f"text_encoder.pooled_dim is that of both towers, {vectors}, got {pooled_dim}")
        if dim < towers or (t5 is not None and dim != t5.dim):
            raise ValueError(f"text_encoder.dim is T5's and at least {towers}, that of both towers, got {dim}")
        if clip_l.length != clip_g.length or (t5 is not None and t5.length != t5_length):
            raise ValueError("both towers have one length, and T5 has text_encoder.t5_length")
        self.clip_l, self.clip_g, self.t5, self.t5_length = clip_l, clip_g, t5, t5_length

    @property
    def padded(self) -> bool:
        towers = self.clip_l.padded and self.clip_g.padded
        return towers or (self.t5 is not None and self.t5.padded)

    def spans(self, text: str) -> list[tuple[int, int]]:
        towers = self.clip_l.spans(text)  # both read the same tokens
        rest = [] if self.t5 is None else self.t5.spans(text)
        return [*towers, *[(0, 0)] * (self.clip_l.length - len(towers)), *rest]

    def forward(self, texts: Sequence[str]) -> Encoded:
        first, second = self.clip_l(texts), self.clip_g(texts)
        tokens = torch.cat((first.tokens, second.tokens), dim=2)
        tokens, mask = F.pad(tokens, (0, self.dim - tokens.shape[2])), first.mask | second.mask
        if self.t5 is None:
            last = tokens.new_zeros(len(texts), self.t5_length, self.dim)
            counts = mask.new_ones(len(texts), self.t5_length)
        else:
            last, counts, _ = self.t5(texts)
        pooled = torch.cat((first.pooled, second.pooled), dim=1)
        return Encoded(torch.cat((tokens, last), dim=1), torch.cat((mask, counts), dim=1), pooled)
