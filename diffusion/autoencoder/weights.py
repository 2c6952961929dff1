"""Where a pretrained autoencoder lies: a folder here, or one of the Hugging Face hub's. No torch in this file."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from diffusion.hub import NotFetchedError, snapshot

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
_HUB = re.compile(r"\w[\w.-]*(/\w[\w.-]*)+")


def local(pretrained: str) -> Path | None:
    """The folder with both files, ``None`` for a name of the hub.

    Raises:
        ValueError: neither a name of the hub nor a folder that holds both.
    """
    folder = Path(pretrained)
    if not folder.is_dir():
        if _HUB.fullmatch(pretrained):
            return None
        raise ValueError(
            f"autoencoder.pretrained={pretrained} is no folder, nor a name of the Hugging Face hub (owner/name, or "
            f"owner/name/folder); name a folder with {CONFIG} and {WEIGHTS}"
        )
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} has no {' and no '.join(missing)}; an autoencoder is saved there by diffusers' save_pretrained, "
            "or its two files are downloaded from the hub; set autoencoder.pretrained to such a folder"
        )
    return folder


def fetched(pretrained: str) -> Path:
    """The folder with both files, downloaded where it is a name of the hub that is not here yet.

    Raises:
        ValueError: they cannot be had; what to download, and where to put it.
    """
    if (folder := local(pretrained)) is not None:
        return folder
    owner, name, *inside = pretrained.split("/")
    why = "it lacks one of them"
    try:
        files = ["/".join([*inside, file]) for file in (CONFIG, WEIGHTS)]
        folder = snapshot(f"{owner}/{name}", files).joinpath(*inside)
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    except NotFetchedError as error:
        why = str(error)
    raise ValueError(
        f"the autoencoder {pretrained} is neither a folder here nor in the Hugging Face cache, and the hub did not "
        f"give it ({why}); download {CONFIG} and {WEIGHTS} from https://huggingface.co/{owner}/{name} into a folder, "
        "and set autoencoder.pretrained to that folder"
    )


def config(folder: Path) -> dict[str, Any]:
    """The config of the model.

    Raises:
        ValueError: no JSON object.
    """
    try:
        read = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder / CONFIG} is no JSON ({error}); fetch it again") from None
    if not isinstance(read, dict):
        raise ValueError(f"{folder / CONFIG} is no JSON object; fetch it again")
    return read


def check(found: dict[str, Any], *, channels: int, factor: int, image_channels: int) -> None:
    """Holds the sizes that a config states against those of the model.

    Raises:
        ValueError: one differs.
    """
    levels = found.get("block_out_channels")
    own = {
        "channels": (channels, found.get("vq_embed_dim") or found.get("latent_channels", channels)),
        "factor": (factor, factor if levels is None else 2 ** (len(levels) - 1)),
        "image_channels": (image_channels, found.get("in_channels", image_channels)),
    }
    for key, (stated, has) in own.items():
        if stated != has:
            what = "set data.channels" if key == "image_channels" else f"set autoencoder.{key}"
            raise ValueError(f"autoencoder.{key} is {stated}, and that of the model is {has}; {what}={has}")


def sha256_of(folder: Path, expected: str | None = None) -> str:
    """Of the file of weights, in hex.

    Raises:
        ValueError: it does not begin with ``expected``.
    """
    with (folder / WEIGHTS).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and not found.startswith(expected):
        raise ValueError(
            f"{folder / WEIGHTS} is not the expected file: its sha256 is {found}, expected {expected}; "
            "fetch it again, or set autoencoder.sha256 if another version is meant"
        )
    return found
