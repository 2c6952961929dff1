"""The encoder of T5 (Raffel et al. 2020), as Imagen, PixArt and Stable Diffusion 3 read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.text_encoder.base import Encoded
from diffusion.text_encoder.pretrained import PretrainedTextEncoder, check_widths, loaded


class T5TextEncoder(PretrainedTextEncoder):
    """The last hidden states; there is no vector of the text.

    ``mask`` False leaves padding in the encoder's own attention too, as Stable Diffusion 3 does; otherwise see
    :class:`PretrainedTextEncoder` for the arguments.
    """

    def load(self, folder: Path, dtype: torch.dtype) -> Any:
        from transformers import T5EncoderModel

        model = loaded(T5EncoderModel, folder, dtype)
        check_widths({"dim": self.dim, "pooled_dim": self.pooled_dim}, {"dim": model.config.d_model, "pooled_dim": 0})
        return model

    def encode(self, ids: Tensor, mask: Tensor) -> Encoded:
        return Encoded(self.model(ids, attention_mask=mask).last_hidden_state, mask, None)
