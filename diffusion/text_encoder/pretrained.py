"""Encoders that were trained elsewhere: frozen, out of the checkpoint, run once for each distinct text."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diffusion.files import replacing, sha256_of
from diffusion.text_encoder.base import Encoded, TextEncoder
from diffusion.types import to_device_async

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FILES = ["model.safetensors", "model-*.safetensors", "*.json", "*.txt", "*.model"]
"""What is fetched of a repository: weights, configs and tokenizer, no pickles."""


class PretrainedTextEncoder(TextEncoder):
    """A model of ``transformers`` in eval mode and its own precision, whatever that of the training.

    It is no part of the module tree: it is neither trained nor averaged, no checkpoint holds it, and copies of this
    module share it and what it encoded. It follows its owner to a device.

    Args:
        pretrained: a name of the Hugging Face hub (owner/name, or owner/name/folder), or a folder that
            ``save_pretrained`` wrote.
        dim, pooled_dim: of the model; networks read their widths here.
        length: tokens of a text.
        mask: padding does not count. False lets the network attend to it too, as Stable Diffusion's do.
        tokenizer: where it is, as ``pretrained``; the same place where ``None``.
        dtype: of the model's weights.
        cache: a folder of encoded texts, mapped when they are read; in memory where ``None``.
        sha256: what the hash of the weights begins with; any weights where ``None``. Of several files of weights it is
            the hash of their hashes.

    Raises:
        ValueError: no transformers, no such model or other weights, widths that are not the model's.
    """

    def __init__(
        self,
        pretrained: str,
        dim: int,
        pooled_dim: int = 0,
        length: int = 77,
        mask: bool = True,
        tokenizer: str | None = None,
        dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        cache: str | None = None,
        sha256: str | None = None,
    ) -> None:
        super().__init__(dim, pooled_dim, length)
        if dtype not in DTYPES:
            raise ValueError(f"text_encoder.dtype is one of {', '.join(DTYPES)}, got {dtype!r}")
        if find_spec("transformers") is None:
            raise ValueError("this text encoder needs transformers; pip install 'alphabar[clip]'")
        folder = fetched(pretrained, "pretrained")
        self.sha256 = hash_of(folder)
        if sha256 is not None and not self.sha256.startswith(sha256):
            raise ValueError(
                f"the sha256 of the weights in {folder} is {self.sha256}, expected {sha256}; fetch them again, or set "
                "text_encoder.sha256 if another version is meant"
            )
        self.mask, self.dtype = mask, dtype
        self.device = torch.device("cpu")
        words = folder if tokenizer is None else fetched(tokenizer, "tokenizer")
        self._held = (Held(self.load(folder, DTYPES[dtype]), _tokenizer(words)),)  # a tuple is no part of the module
        self.kept = None if cache is None else Path(cache) / self.key()

    @abstractmethod
    def load(self, folder: Path, dtype: torch.dtype) -> Any:
        """The model of a folder.

        Raises:
            ValueError: it is of another kind, or its widths are not ``dim`` and ``pooled_dim``.
        """

    @abstractmethod
    def encode(self, ids: Tensor, mask: Tensor) -> Encoded:
        """ids (B, L) int64, mask (B, L) True where no padding -> the encoding; ``mask`` of it is ignored."""

    @property
    def model(self) -> Any:
        """The model of ``transformers``."""
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
        tokenizer = self._held[0].tokenizer
        room = self.length - len(tokenizer("")["input_ids"])
        for text in texts:
            if rest := tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][room:]:
                self.cut.warn(text, tokenizer.decode(rest).strip())
        padded = [*texts, *[""] * (_TOGETHER - len(texts))]
        ids = tokenizer(padded, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
        ids = ids.to(self.device)
        counts = ids["attention_mask"].bool() if self.mask else torch.ones_like(ids["attention_mask"]).bool()
        self.model.to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            encoded = self.encode(ids["input_ids"], counts)
        for i, text in enumerate(texts):
            parts = [encoded.tokens[i][counts[i]].flatten(), *([] if encoded.pooled is None else [encoded.pooled[i]])]
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PretrainedTextEncoder:
        self.device = fn(torch.empty(0)).device
        return super()._apply(fn, recurse)


class Held:
    """A model, its tokenizer and what it encoded, shared by all copies."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.memory: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        return self


def fetched(pretrained: str, key: str) -> Path:
    """The folder, downloaded where it is a name of the hub that is not here yet.

    Raises:
        ValueError: it cannot be had.
    """
    folder = Path(pretrained)
    if folder.is_dir():
        return folder
    parts = pretrained.split("/")
    inside = parts[2:]
    try:
        from huggingface_hub import snapshot_download

        patterns = ["/".join([*inside, file]) for file in FILES]
        folder = Path(snapshot_download("/".join(parts[:2]), allow_patterns=patterns)).joinpath(*inside)
    except Exception as error:  # no network, no such repository, no permission: a dozen kinds
        raise ValueError(
            f"text_encoder.{key}={pretrained} is neither a folder nor in the Hugging Face cache, and the hub did not "
            f"give it ({type(error).__name__}); download its files and set text_encoder.{key} to their folder"
        ) from None
    return folder


def hash_of(folder: Path) -> str:
    """The sha256 of a folder's weights.

    Raises:
        ValueError: there are none.
    """
    files = [folder / "model.safetensors"] if (folder / "model.safetensors").is_file() else []
    hashes = [sha256_of(file) for file in files or sorted(folder.glob("model-*.safetensors"))]
    if not hashes:
        raise ValueError(
            f"{folder} holds no model.safetensors; set text_encoder.pretrained to a folder that save_pretrained of "
            "transformers wrote"
        )
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def loaded(kind: Any, folder: Path, dtype: torch.dtype, unused: Sequence[str] = ()) -> Any:
    """A model of ``transformers`` with every weight from its file, but for those of the modules ``unused``.

    Raises:
        ValueError: the folder holds a model of another kind.
    """
    with torch.random.fork_rng(devices=[]):  # missing weights would be drawn
        try:
            model, info = kind.from_pretrained(folder, use_safetensors=True, dtype=dtype, output_loading_info=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{folder} is no {kind.__name__}: {' '.join(str(error).split())[:200]}") from None
    missing = [key for key in info["missing_keys"] if not key.startswith(tuple(unused))]
    if missing:
        raise ValueError(
            f"{folder} is no {kind.__name__}: its weights lack {len(missing)} tensors, the first is {missing[0]}; "
            "set text_encoder.pretrained to another"
        )
    return model


def check_widths(stated: dict[str, int], own: dict[str, int]) -> None:
    """Raises:
    ValueError: a width in the config is not the model's.
    """
    for key, width in stated.items():
        if width != own[key]:
            raise ValueError(f"text_encoder.{key} is {width}, and the model has {own[key]}; set it to {own[key]}")


def _file(folder: Path, text: str) -> Path:
    name = hashlib.sha256(text.encode()).hexdigest()
    return folder / name[:2] / f"{name}.npy"


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no tokenizer ({' '.join(str(error).split())[:100]}); set text_encoder.tokenizer"
        ) from None


_TOGETHER = 8
"""Texts in a call of the model."""
