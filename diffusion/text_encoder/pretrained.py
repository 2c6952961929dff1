"""Encoders that were trained elsewhere: models of transformers, frozen."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion.files import sha256_of
from diffusion.hub import NotFetchedError, snapshot
from diffusion.text_encoder.base import Encoded
from diffusion.text_encoder.kept import Held, KeptTextEncoder

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
ROOM = "text_encoder"
FILES = ["model.safetensors", "model-*.safetensors", "*.json", "*.txt", "*.model"]
"""What is fetched of a repository: weights, configs and tokenizer, no pickles."""


class PretrainedTextEncoder(KeptTextEncoder):
    """A model of ``transformers``.

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
        words = folder if tokenizer is None else fetched(tokenizer, "tokenizer")
        self.hold(Held(self.load(folder, DTYPES[dtype]), _tokenizer(words)), cache)

    @property
    def padded(self) -> bool:
        return self.mask

    @abstractmethod
    def load(self, folder: Path, dtype: torch.dtype) -> Any:
        """The model of a folder.

        Raises:
            ValueError: it is of another kind, or its widths are not ``dim`` and ``pooled_dim``.
        """

    @abstractmethod
    def encode(self, ids: Tensor, mask: Tensor) -> Encoded:
        """ids (B, L) int64, mask (B, L) True where no padding -> the encoding; ``mask`` of it is ignored."""

    def encode_all(self, texts: Sequence[str]) -> Encoded:
        tokenizer = self._held[0].tokenizer
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt")
        ids = ids.to(self.device)
        counts = ids["attention_mask"].bool() if self.mask else torch.ones_like(ids["attention_mask"]).bool()
        return self.encode(ids["input_ids"], counts)._replace(mask=counts)

    def report(self, text: str) -> None:
        tokenizer = self._held[0].tokenizer
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if rest := ids[self.length - len(tokenizer("")["input_ids"]) :]:
            self.cut.warn(text, tokenizer.decode(rest).strip())
        if unknown := _unknown(tokenizer, text, ids):
            self.cut.unknown(text, unknown)

    def spans(self, text: str) -> list[tuple[int, int]]:
        tokenizer = self._held[0].tokenizer
        if not tokenizer.is_fast:
            return super().spans(text)
        found = tokenizer(text, truncation=True, max_length=self.length, return_offsets_mapping=True)
        return [(int(begin), int(end)) for begin, end in found["offset_mapping"]]


def fetched(pretrained: str, key: str, room: str = ROOM) -> Path:
    """The folder, downloaded where it is a name of the hub that is not here yet.

    key, room: of the config, for an error.

    Raises:
        ValueError: it cannot be had.
    """
    folder = Path(pretrained)
    if folder.is_dir():
        return folder
    parts = pretrained.split("/")
    inside = parts[2:]
    try:
        folder = snapshot("/".join(parts[:2]), ["/".join([*inside, file]) for file in FILES]).joinpath(*inside)
    except NotFetchedError as why:
        raise ValueError(
            f"{room}.{key}={pretrained} is neither a folder nor in the Hugging Face cache, and the hub did not "
            f"give it ({why}); download its files and set {room}.{key} to their folder"
        ) from None
    return folder


def hash_of(folder: Path, room: str = ROOM) -> str:
    """The sha256 of a folder's weights.

    room: of the config, for an error.

    Raises:
        ValueError: there are none.
    """
    files = [folder / "model.safetensors"] if (folder / "model.safetensors").is_file() else []
    hashes = [sha256_of(file) for file in files or sorted(folder.glob("model-*.safetensors"))]
    if not hashes:
        raise ValueError(
            f"{folder} holds no model.safetensors; set {room}.pretrained to a folder that save_pretrained of "
            "transformers wrote"
        )
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def loaded(kind: Any, folder: Path, dtype: torch.dtype, unused: Sequence[str] = (), room: str = ROOM) -> Any:
    """A model of ``transformers`` with every weight from its file, but for those of the modules ``unused``.

    room: of the config, for an error.

    Raises:
        ValueError: the folder holds a model of another kind.
    """
    with torch.random.fork_rng(devices=[]):  # missing weights would be drawn
        try:
            model, info = kind.from_pretrained(folder, use_safetensors=True, dtype=dtype, output_loading_info=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{folder} is no {kind.__name__}: {' '.join(str(error).split())[:200]}") from None
    missing = [name for name in info["missing_keys"] if not name.startswith(tuple(unused))]
    if missing:
        raise ValueError(
            f"{folder} is no {kind.__name__}: its weights lack {len(missing)} tensors, the first is {missing[0]}; "
            f"set {room}.pretrained to another"
        )
    return model


def check_widths(stated: dict[str, int], own: dict[str, int]) -> None:
    """Raises:
    ValueError: a width in the config is not the model's.
    """
    for key, width in stated.items():
        if width != own[key]:
            raise ValueError(f"text_encoder.{key} is {width}, and the model has {own[key]}; set it to {own[key]}")


def _unknown(tokenizer: Any, text: str, ids: list[int]) -> list[str]:
    """The words of a text that have no token; there are none where the unknown token is the end of a text too."""
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown not in ids or unknown in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        return []
    if not tokenizer.is_fast:
        return [text]
    found = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    spans = zip(found["input_ids"], found["offset_mapping"], strict=True)
    return list(dict.fromkeys(text[begin:end] for token, (begin, end) in spans if token == unknown))


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no tokenizer ({' '.join(str(error).split())[:100]}); set text_encoder.tokenizer"
        ) from None
