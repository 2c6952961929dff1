"""The text tower of CLIP (Radford et al. 2021) and of OpenCLIP (Ilharco et al. 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion.text_encoder.base import Encoded
from diffusion.text_encoder.pretrained import PretrainedTextEncoder, check_widths, loaded


class CLIPTextEncoder(PretrainedTextEncoder):
    """Hidden states of a layer, and the state of the end token.

    Stable Diffusion 1 reads the last layer after the final norm (layer -1, norm), 2 the one before it after the final
    norm (layer -2, norm), SDXL that without the norm (layer -2), and the projection of the second encoder.

    Args:
        layer: of the hidden states, from the end: -1 is the last.
        norm: the final norm is applied to it.
        pooled: "none"; "eos", the last layer's normed state of the end token; or "projection", that in the space that
            CLIP shares with images. ``pooled_dim`` is its width.
        pretrained, dim, pooled_dim, length, mask, tokenizer, dtype, cache, sha256: see :class:`PretrainedTextEncoder`.

    Raises:
        ValueError: as there, and a layer that the model does not have.
    """

    def __init__(
        self,
        pretrained: str,
        dim: int,
        pooled_dim: int = 0,
        length: int = 77,
        layer: int = -1,
        norm: bool = True,
        pooled: Literal["none", "eos", "projection"] = "none",
        mask: bool = True,
        tokenizer: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        cache: str | None = None,
        sha256: str | None = None,
    ) -> None:
        if pooled not in ("none", "eos", "projection"):
            raise ValueError(f"text_encoder.pooled is none, eos or projection, got {pooled!r}")
        self.layer, self.norm, self.pooled = layer, norm, pooled
        super().__init__(pretrained, dim, pooled_dim, length, mask, tokenizer, dtype, cache, sha256)

    def load(self, folder: Path, dtype: torch.dtype) -> Any:
        from transformers import CLIPTextModelWithProjection

        unused = () if self.pooled == "projection" else ("text_projection",)
        model = loaded(CLIPTextModelWithProjection, folder, dtype, unused)
        own = model.config
        widths = {"none": 0, "eos": own.hidden_size, "projection": own.projection_dim}
        check_widths(
            {"dim": self.dim, "pooled_dim": self.pooled_dim},
            {"dim": own.hidden_size, "pooled_dim": widths[self.pooled]},
        )
        if self.length > own.max_position_embeddings:
            raise ValueError(
                f"text_encoder.length is {self.length} and the model reads {own.max_position_embeddings} tokens; "
                "set it to at most that"
            )
        if not -own.num_hidden_layers - 1 <= self.layer <= -1:
            raise ValueError(
                f"text_encoder.layer counts from the end, -1 to -{own.num_hidden_layers + 1}, got {self.layer}"
            )
        return model

    def encode(self, ids: Tensor, mask: Tensor) -> Encoded:
        """Attention is causal, so that padding, which comes last, changes no token before it."""
        out = self.model(ids, output_hidden_states=True)
        hidden = out.hidden_states[self.layer]
        tokens = self.model.text_model.final_layer_norm(hidden) if self.norm else hidden
        if self.pooled == "projection":
            return Encoded(tokens, mask, out.text_embeds)
        end = (ids == self.eos).int().argmax(1)
        pooled = out.last_hidden_state[torch.arange(len(ids), device=ids.device), end]
        return Encoded(tokens, mask, pooled if self.pooled == "eos" else None)

    @property
    def eos(self) -> int:
        """The id of the end token; the first one ends a text that is padded with it."""
        return int(self._held[0].tokenizer.eos_token_id)
