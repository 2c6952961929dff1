"""A small transformer over words, trained with the model that it serves."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.text_encoder.base import Encoded, TextEncoder

PAD, START = 0, 1


class WordsTextEncoder(TextEncoder):
    """A token [start] and one for each word or sign, embedded by a hash of its letters, through pre-norm transformer
    blocks without a causal mask (Vaswani et al. 2017; Devlin et al. 2019 for the first token as the text's vector).

    There is no vocabulary to make or to download: a word's row is crc32(word) mod ``vocabulary``, letter case ignored,
    so that two words in ``vocabulary`` rows share one with probability 1 / ``vocabulary`` (Weinberger et al. 2009).

    Args:
        dim: width of a token, a multiple of ``heads``.
        pooled_dim: width of the text's vector, a linear map of [start]'s token; 0 for none.
        depth: number of blocks.
        length: tokens of a text, [start] included.
        vocabulary: rows of the embedding.

    Raises:
        ValueError: a size below its least, or a width that the heads cannot share.
    """

    def __init__(
        self,
        dim: int = 128,
        pooled_dim: int = 128,
        depth: int = 2,
        heads: int = 4,
        length: int = 32,
        vocabulary: int = 8192,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, pooled_dim, length)
        if depth < 1 or vocabulary < 1:
            raise ValueError(f"text_encoder.depth and .vocabulary are at least 1, got {depth} and {vocabulary}")
        if heads < 1 or dim % heads:
            raise ValueError(f"text_encoder.dim={dim} cannot be shared by {heads} heads; set text_encoder.heads")
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary + 2, dim)
        self.places = nn.Parameter(torch.randn(length, dim) * _STD)
        nn.init.normal_(self.embedding.weight, std=_STD)
        self.stack = nn.ModuleList(WordsBlock(dim, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.pool = nn.Linear(dim, pooled_dim) if pooled_dim else None

    def forward(self, texts: Sequence[str]) -> Encoded:
        ids = torch.tensor([self.ids(text) for text in texts]).to(self.places.device)
        mask = ids != PAD
        h = self.embedding(ids) + self.places
        for block in self.stack:
            h = block(h, mask)
        h = self.norm(h)
        return Encoded(h * mask[:, :, None], mask, None if self.pool is None else self.pool(h[:, 0]))

    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(0, 0), *(word.span() for word in _WORDS.finditer(text))][: self.length]

    def ids(self, text: str) -> list[int]:
        """The rows of a text's tokens, ``length`` of them."""
        found = list(_WORDS.finditer(text))
        room = self.length - 1
        if len(found) > room:
            self.cut.warn(text, text[found[room].start() :])
        rows = [2 + zlib.crc32(word.group().casefold().encode()) % self.vocabulary for word in found[:room]]
        return [START, *rows, *[PAD] * (room - len(rows))]


class WordsBlock(nn.Module):
    """Self-attention over the tokens that count, and an MLP, each after a norm and added to its input."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp1, self.mlp2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """h (B, L, D), mask (B, L) bool -> (B, L, D)."""
        q, k, v = self.qkv(self.norm1(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        h = h + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return h + self.dropout(self.mlp2(F.gelu(self.mlp1(self.norm2(h)))))


_WORDS = re.compile(r"\w+|[^\w\s]")
_STD = 0.02
