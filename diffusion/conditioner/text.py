"""Texts as tokens for cross-attention and as a vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffusion.conditioner.base import Conditioner, check_drop
from diffusion.text_encoder.base import Encoded, TextEncoder
from diffusion.types import Cond


class TextConditioner(Conditioner):
    """What a text encoder makes of a column of texts.

    Args:
        encoder: texts -> tokens, mask and a vector.
        dim: width of ``Cond.vector``, the encoder's ``pooled_dim``.
        token_dim: width of ``Cond.tokens``, the encoder's ``dim``; 0 leaves them empty, for networks without
            cross-attention.
        null: the condition without a text: "empty", the encoding of the empty text (Rombach et al. 2022), or "learned",
            one token and a vector that are trained.
        drop: probability of training without the text.
        column: of the batch, a list of B texts.

    Raises:
        ValueError: widths that the encoder does not have, or none.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        dim: int = 0,
        token_dim: int = 0,
        null: Literal["empty", "learned"] = "empty",
        drop: float = 0.1,
        column: str = "text",
    ) -> None:
        super().__init__()
        if dim != encoder.pooled_dim:
            raise ValueError(f"conditioner.dim is text_encoder.pooled_dim, {encoder.pooled_dim}, got {dim}")
        if token_dim not in (0, encoder.dim):
            raise ValueError(f"conditioner.token_dim is text_encoder.dim, {encoder.dim}, or 0, got {token_dim}")
        if not dim and not token_dim:
            raise ValueError("nothing of a text is read: set conditioner.token_dim or text_encoder.pooled_dim above 0")
        if null not in ("empty", "learned"):
            raise ValueError(f"conditioner.null is empty or learned, got {null!r}")
        if null == "learned" and drop == 0:
            raise ValueError("conditioner.null=learned is trained by dropped texts; set conditioner.drop above 0")
        check_drop(drop)
        self.encoder = encoder
        self.dim, self.token_dim = dim, token_dim
        self.null, self.drop, self.column = null, drop, column
        self.columns = (column,)
        learned = null == "learned"
        self.null_token = nn.Parameter(torch.zeros(token_dim)) if learned and token_dim else None
        self.null_vector = nn.Parameter(torch.zeros(dim)) if learned and dim else None

    def forward(self, batch: Mapping[str, Any]) -> Cond:
        """batch[column], a list of B texts -> tokens (B, L, token_dim) with their mask, vector (B, dim), and the null.

        Raises:
            ValueError: no texts.
        """
        texts = batch[self.column]
        if isinstance(texts, Tensor | str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"conditioner=text reads a list of texts, the column '{self.column}' has "
                f"{'numbers' if isinstance(texts, Tensor) else type(texts).__name__}; set conditioner.column to another"
            )
        if self.null == "learned":
            return replace(self._cond(self.encoder(texts)), null=self.empty(len(texts)))
        both = self._cond(self.encoder(["", *texts]))
        null = both.map(lambda v: v[:1].expand(len(texts), *v.shape[1:]))
        return replace(both.map(lambda v: v[1:]), null=null)

    def empty(self, count: int) -> Cond:
        if self.null == "empty":
            return self._cond(self.encoder([""])).map(lambda v: v.expand(count, *v.shape[1:]))
        tokens = mask = None
        if self.null_token is not None:
            rest = self.null_token.new_zeros(self.encoder.length - 1, self.token_dim)
            tokens = torch.cat((self.null_token[None], rest)).expand(count, -1, -1)
            mask = torch.arange(self.encoder.length, device=tokens.device).eq(0).expand(count, -1)
        vector = None if self.null_vector is None else self.null_vector.expand(count, -1)
        return Cond(vector=vector, tokens=tokens, mask=mask)

    def _cond(self, encoded: Encoded) -> Cond:
        read = bool(self.token_dim)
        return Cond(
            vector=encoded.pooled if self.dim else None,
            tokens=encoded.tokens if read else None,
            mask=encoded.mask if read else None,
        )
