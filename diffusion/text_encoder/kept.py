"""Frozen encoders: out of the checkpoint, run once for each distinct text."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.files import replacing
from diffusion.text_encoder.base import Encoded, TextEncoder
from diffusion.types import to_device_async


class KeptTextEncoder(TextEncoder):
    """A text encoder around a model in eval mode and its own precision, whatever that of the training.

    It is no part of the module tree: it is neither trained nor averaged, no checkpoint holds it, and copies of this
    module share it and what it encoded. It follows its owner to a device.

    Args:
        dim, pooled_dim, length: see :class:`TextEncoder`. A constructor ends with :meth:`hold`.
    """

    sha256: str
    """Of the weights."""
    kept: Path | None
    """The folder of encoded texts; ``None`` in memory."""

    def __init__(self, dim: int, pooled_dim: int, length: int) -> None:
        super().__init__(dim, pooled_dim, length)
        self.device = torch.device("cpu")

    def hold(self, held: Held, cache: str | None) -> None:
        """held: the model. cache: a folder of encoded texts, mapped when they are read; in memory where ``None``."""
        self._held = (held,)  # a tuple is no part of the module
        self.kept = None if cache is None else Path(cache) / self.key()

    @abstractmethod
    def encode_all(self, texts: Sequence[str]) -> Encoded:
        """Texts -> their encoding by the model, on its device."""

    def report(self, text: str) -> None:
        """Warns of what is not read of a text; called before it is encoded for the first time."""

    @property
    def model(self) -> Any:
        """What encodes."""
        return self._held[0].model

    def key(self) -> str:
        """Of all that decides an encoding beside the text."""
        named = {k: v for k, v in sorted(vars(self).items()) if isinstance(v, str | int | bool) and k != "training"}
        return hashlib.sha256(json.dumps([type(self).__name__, named]).encode()).hexdigest()[:32]

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Encoded:
        memory = self._held[0].memory if self.kept is None else {}
        missing = [text for text in dict.fromkeys(texts) if text not in memory and not self._read(text, memory)]
        for start in range(0, len(missing), _TOGETHER):
            self._encode(missing[start : start + _TOGETHER], memory)
        tokens = torch.zeros(len(texts), self.length, self.dim)
        mask = torch.zeros(len(texts), self.length, dtype=torch.bool)
        pooled = torch.zeros(len(texts), self.pooled_dim)
        for i, text in enumerate(texts):
            row = memory[text]
            split = len(row) - self.pooled_dim
            count = split // self.dim
            tokens[i, :count] = row[:split].view(count, self.dim)
            mask[i, :count] = True
            pooled[i] = row[split:]
        tokens, mask, pooled = (to_device_async(value, self.device) for value in (tokens, mask, pooled))
        return Encoded(tokens, mask, pooled if self.pooled_dim else None)

    def _encode(self, texts: list[str], memory: dict[str, Tensor]) -> None:
        """Into memory and cache, always so many texts together: then the batch does not change the bits."""
        for text in texts:
            self.report(text)
        self.model.to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            encoded = self.encode_all([*texts, *[""] * (_TOGETHER - len(texts))])
        for i, text in enumerate(texts):
            tokens = encoded.tokens[i][encoded.mask[i]].flatten()
            parts = [tokens, *([] if encoded.pooled is None else [encoded.pooled[i]])]
            memory[text] = torch.cat(parts).float().cpu()
            if self.kept is not None:
                with replacing(_file(self.kept, text)) as path, path.open("wb") as file:
                    np.save(file, memory[text].numpy())

    def _read(self, text: str, memory: dict[str, Tensor]) -> bool:
        """Was the text encoded before, into the cache?"""
        if self.kept is None or not (file := _file(self.kept, text)).is_file():
            return False
        memory[text] = torch.from_numpy(np.load(file, mmap_mode="c"))  # torch requires a writable array
        return True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KeptTextEncoder:
        self.device = fn(torch.empty(0)).device
        return super()._apply(fn, recurse)


class Held:
    """A model, its tokenizer where it has one, and what it encoded, shared by all copies."""

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.memory: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        return self


def _file(folder: Path, text: str) -> Path:
    name = hashlib.sha256(text.encode()).hexdigest()
    return folder / name[:2] / f"{name}.npy"


_TOGETHER = 8
"""Texts in a call of the model."""
