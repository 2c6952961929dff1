"""Texts as tokens for cross-attention and as a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffusion.conditioner.base import Conditioner, check_drop
from diffusion.text_encoder.base import Encoded, TextEncoder
from diffusion.text_encoder.parts import mean, split
from diffusion.text_encoder.weights import parse, weigh
from diffusion.types import Cond


class TextConditioner(Conditioner):
    """What a text encoder makes of a column of texts.

    Args:
        encoder: texts -> tokens, mask and a vector.
        dim: width of ``Cond.vector``, the encoder's ``pooled_dim`` unless they are projected.
        token_dim: width of ``Cond.tokens``, the encoder's ``dim`` unless they are projected; 0 leaves them empty, for
            networks without cross-attention.
        null: the condition without a text: "empty", the encoding of the empty text (Rombach et al. 2022), "zeros",
            tokens and vector of zeros (Podell et al. 2023), or "learned", one token and a vector that are trained.
        drop: probability of training without the text.
        column: of the batch, a list of B texts.
        prompt_weights: read weights in the texts, such as "a (red:1.3) heart" (:mod:`diffusion.text_encoder.weights`).
        prompt_parts: encode the parts of a text such as "hot:: dog::2" apart, and take the mean of their encodings with
            these weights (:func:`diffusion.text_encoder.parts.mean`).
        projected: a linear map brings the vector to ``dim``, and one with a layer norm the tokens to ``token_dim``, as
            in unCLIP's decoder (Ramesh et al. 2022, section 2.1; the norm is Karlo's).

    Raises:
        ValueError: widths that the encoder does not have, or none.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        dim: int = 0,
        token_dim: int = 0,
        null: Literal["empty", "zeros", "learned"] = "empty",
        drop: float = 0.1,
        column: str = "text",
        prompt_weights: bool = False,
        prompt_parts: bool = False,
        projected: bool = False,
    ) -> None:
        super().__init__()
        if projected:
            if dim and not encoder.pooled_dim:
                raise ValueError(
                    "this text encoder gives no vector that could be projected; set conditioner.dim=0 or "
                    "text_encoder.pooled_dim above 0"
                )
        elif dim != encoder.pooled_dim:
            raise ValueError(f"conditioner.dim is text_encoder.pooled_dim, {encoder.pooled_dim}, got {dim}")
        if not projected and token_dim not in (0, encoder.dim):
            raise ValueError(f"conditioner.token_dim is text_encoder.dim, {encoder.dim}, or 0, got {token_dim}")
        if not dim and not token_dim:
            raise ValueError("nothing of a text is read: set conditioner.token_dim or text_encoder.pooled_dim above 0")
        if null not in ("empty", "zeros", "learned"):
            raise ValueError(f"conditioner.null is empty, zeros or learned, got {null!r}")
        if null == "learned" and drop == 0:
            raise ValueError("conditioner.null=learned is trained by dropped texts; set conditioner.drop above 0")
        check_drop(drop)
        self.encoder = encoder
        self.dim, self.token_dim = dim, token_dim
        self.null, self.drop, self.column = null, drop, column
        self.columns = (column,)
        self.prompt_weights, self.prompt_parts = prompt_weights, prompt_parts
        self.to_vector = nn.Linear(encoder.pooled_dim, dim) if projected and dim else None
        self.to_tokens = None
        if projected and token_dim:
            self.to_tokens = nn.Sequential(nn.Linear(encoder.dim, token_dim), nn.LayerNorm(token_dim))
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
        if self.null == "zeros":
            cond = self._cond(self._encoded(texts))
            return replace(cond, null=_zeros(cond))
        if self.null == "learned":
            return replace(self._cond(self._encoded(texts)), null=self.empty(len(texts)))
        both = self._cond(self._encoded(["", *texts]))
        null = both.map(lambda v: v[:1].expand(len(texts), *v.shape[1:]))
        return replace(both.map(lambda v: v[1:]), null=null)

    def empty(self, count: int) -> Cond:
        if self.null != "learned":
            one = self._cond(self.encoder([""]))
            one = one if self.null == "empty" else _zeros(one)
            return one.map(lambda v: v.expand(count, *v.shape[1:]))
        tokens = mask = None
        if self.null_token is not None:
            rest = self.null_token.new_zeros(self.encoder.length - 1, self.token_dim)
            tokens = torch.cat((self.null_token[None], rest)).expand(count, -1, -1)
            mask = torch.arange(self.encoder.length, device=tokens.device).eq(0).expand(count, -1)
        vector = None if self.null_vector is None else self.null_vector.expand(count, -1)
        return Cond(vector=vector, tokens=tokens, mask=mask)

    def _encoded(self, texts: Sequence[str]) -> Encoded:
        if not self.prompt_parts:
            return self._whole(texts)
        parts = [split(text) for text in texts]
        return mean(self._whole([part.text for each in parts for part in each]), parts)

    def _whole(self, texts: Sequence[str]) -> Encoded:
        if not self.prompt_weights:
            return self.encoder(texts)
        weighted = [parse(text) for text in texts]
        encoded: Encoded = self.encoder([each.text for each in weighted])
        places = [self.encoder.spans(each.text) for each in weighted]
        return encoded._replace(tokens=weigh(encoded.tokens, encoded.mask, places, weighted))

    def _cond(self, encoded: Encoded) -> Cond:
        vector = encoded.pooled if self.dim else None
        if self.to_vector is not None and vector is not None:
            vector = self.to_vector(vector)
        if not self.token_dim:
            return Cond(vector=vector)
        tokens = encoded.tokens if self.to_tokens is None else self.to_tokens(encoded.tokens)
        needed = self.encoder.padded or self.null == "learned"  # whose null is one token
        return Cond(vector=vector, tokens=tokens, mask=encoded.mask if needed else None)


def _zeros(cond: Cond) -> Cond:
    """Zeros of the same shapes, all of whose tokens count."""
    return cond.map(lambda v: torch.ones_like(v) if v.dtype == torch.bool else torch.zeros_like(v))
