"""The embedding of an image, such as CLIP's, for a network that draws images with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffusion.conditioner.base import Conditioner, check_drop
from diffusion.image_encoder import ImageEncoder
from diffusion.types import Cond


class ImageEmbeddingConditioner(Conditioner):
    """The column "image_embedding" as a vector, which is added to the embedding of the noise level, and as extra tokens
    beside those of a text: unCLIP's decoder (Ramesh et al. 2022, section 2.1).

    Args:
        embedding_dim: E of the column, (B, E).
        dim: width of ``Cond.vector``, a linear map of the embedding; 0 for none.
        token_dim: width of ``Cond.tokens``, another linear map; 0 for none, for networks without cross-attention.
        tokens: how many.
        null: the embedding that stands for none: "learned", or "zero" (both are in the paper).
        drop: probability of training without the embedding.
        clip: what the sha256 of the encoder begins with that makes the embeddings; a pipeline refuses a stage of
            another. Not checked where ``None``.
        run, checkpoint, weights: of a CLIP (:func:`diffusion.load`) that makes the embeddings of a batch's images where
            it has no such column; it is frozen, and ``clip`` is its sha256. ``None``: the data have the column.

    Raises:
        ValueError: widths or a null that make no sense, or a CLIP of another width or other weights.
        ConfigError: no run folder, or a run of something else.
    """

    columns = ("image_embedding",)
    sha256: str | None = None
    """Of the CLIP's weights."""

    def __init__(
        self,
        embedding_dim: int = 768,
        dim: int = 128,
        token_dim: int = 128,
        tokens: int = 4,
        null: Literal["learned", "zero"] = "learned",
        drop: float = 0.1,
        clip: str | None = None,
        run: str | None = None,
        checkpoint: str = "last",
        weights: Literal["ema", "raw"] = "ema",
    ) -> None:
        super().__init__()
        for key, value, least in (("embedding_dim", embedding_dim, 1), ("dim", dim, 0), ("token_dim", token_dim, 0)):
            if value < least:
                raise ValueError(f"conditioner.{key} is at least {least}, got {value}")
        if tokens < 1:
            raise ValueError(
                f"conditioner.tokens is at least 1, got {tokens}; set conditioner.token_dim=0 to leave them out"
            )
        if not dim and not token_dim:
            raise ValueError("nothing of an embedding is read: set conditioner.dim or conditioner.token_dim above 0")
        if null not in ("learned", "zero"):
            raise ValueError(f"conditioner.null is learned or zero, got {null!r}")
        if null == "learned" and drop == 0:
            raise ValueError("conditioner.null=learned is trained by dropped embeddings; set conditioner.drop above 0")
        check_drop(drop)
        self.embedding_dim, self.dim, self.token_dim, self.count = embedding_dim, dim, token_dim, tokens
        self.null, self.drop, self.clip = null, drop, clip
        self.encoder: ImageEncoder | None = None
        if run is not None:
            self.encoder = ImageEncoder(run, checkpoint, weights, embedding_dim, clip, "conditioner.embedding_dim")
            self.clip = self.sha256 = self.encoder.sha256
        self.to_vector = nn.Linear(embedding_dim, dim) if dim else None
        self.to_tokens = nn.Linear(embedding_dim, tokens * token_dim) if token_dim else None
        self.null_embedding = nn.Parameter(torch.zeros(embedding_dim)) if null == "learned" else None

    def completed(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return batch if self.encoder is None else self.encoder.completed(batch)

    def forward(self, batch: Mapping[str, Any]) -> Cond:
        """batch["image_embedding"] (B, E) -> vector (B, dim), tokens (B, count, token_dim), and the null's.

        Raises:
            ValueError: no embeddings of that width.
        """
        embedding = batch["image_embedding"]
        if not isinstance(embedding, Tensor) or embedding.ndim != 2 or embedding.shape[1] != self.embedding_dim:
            kind = tuple(embedding.shape) if isinstance(embedding, Tensor) else type(embedding).__name__
            raise ValueError(
                f"image_embedding is (B, {self.embedding_dim}), the column has {kind}; set conditioner.embedding_dim "
                "to its width"
            )
        cond = self._cond(embedding)
        return Cond(vector=cond.vector, tokens=cond.tokens, null=self.empty(len(embedding)))

    def empty(self, count: int) -> Cond:
        if self.null_embedding is not None:
            return self._cond(self.null_embedding.expand(count, -1))
        return self._cond(next(self.parameters()).new_zeros(count, self.embedding_dim))

    def _cond(self, embedding: Tensor) -> Cond:
        vector = tokens = None
        if self.to_vector is not None:
            vector = self.to_vector(embedding.to(self.to_vector.weight))
        if self.to_tokens is not None:
            tokens = self.to_tokens(embedding.to(self.to_tokens.weight)).unflatten(1, (self.count, self.token_dim))
        return Cond(vector=vector, tokens=tokens)
