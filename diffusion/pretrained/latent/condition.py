"""The conditions of latent diffusion's code: none, a class as one token, CLIP's and OpenCLIP's texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.errors import ConfigError
from diffusion.pretrained.base import Link, Part
from diffusion.pretrained.diffusers_folder import read_json
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.latent.text_encoders import (
    clip_config,
    clip_folder,
    encoder_overrides,
    from_open_clip,
    has_tokenizer,
)
from diffusion.pretrained.transforms import SAME, WITH_NULL

UNCONDITIONAL = "__is_unconditional__"
CLASSES = "cond_stage_model.embedding.weight"
NULL_ROW = 1001
"""Rows of an embedding of ImageNet's classes whose last stands for no class."""


@dataclass(frozen=True)
class Condition:
    """token_dim: width of the tokens. kept: tensors of the file that the conditioner is made of, by ``links``."""

    overrides: dict[str, Any]
    token_dim: int = 0
    links: list[Link] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)


def condition(flags: Flags, tensors: Mapping[str, Tensor], beside: Path, parts: dict[str, Part]) -> Condition:
    """What ``cond_stage_config`` stands for; a text encoder becomes a part.

    tensors: of the stage. beside: the folder of the config, where that of a tokenizer may lie.

    Raises:
        ConfigError: a condition that is not supported.
    """
    stage = flags.need("cond_stage_config")
    if stage == UNCONDITIONAL:
        flags.ignore("conditioning_key", "concat_mode")
        return Condition({"conditioner": "none", "guidance": "none", "sampler.steps": 200})
    usual = "concat" if flags.get("concat_mode", True) else "crossattn"
    if (key := flags.get("conditioning_key", usual)) != "crossattn":
        raise ConfigError(f"conditioning_key={key} is not supported; crossattn is, and no condition")
    target = str(stage.get("target", ""))
    own = Flags(stage.get("params") or {}, f"the config of {target}")
    makers = {"ClassEmbedder": _classes, "FrozenCLIPEmbedder": _clip, "FrozenOpenCLIPEmbedder": _open_clip}
    if (kind := target.rpartition(".")[2]) not in makers:
        raise ConfigError(f"the condition {target} is not supported; {', '.join(makers)} are")
    found = makers[kind](own, tensors, beside, parts)
    own.finish()
    return found


def _classes(flags: Flags, tensors: Mapping[str, Tensor], beside: Path, parts: dict[str, Part]) -> Condition:
    rows, dim = int(flags.get("n_classes", 1000)), int(flags.need("embed_dim"))
    flags.ignore("key")
    count = rows - (rows == NULL_ROW)
    overrides = {
        "data.num_classes": count,
        "conditioner": "label",
        "conditioner.num_classes": count,
        "conditioner.dim": 0,
        "conditioner.token_dim": dim,
        **({} if rows == NULL_ROW else {"conditioner.drop": 0.0}),
        "sampler.steps": 250,
        **(
            {"guidance": "classifier_free", "guidance.classifier_free.scale": 1.5}
            if rows == NULL_ROW
            else {"guidance": "none"}
        ),
    }
    link = Link("conditioner.embedding.weight", (CLASSES,), SAME if rows == NULL_ROW else WITH_NULL)
    return Condition(overrides, dim, [link], {CLASSES: tensors["embedding.weight"]})


def _clip(flags: Flags, tensors: Mapping[str, Tensor], beside: Path, parts: dict[str, Part]) -> Condition:
    flags.only("layer", "last")
    flags.only("layer_idx", None)
    version = str(flags.get("version", "openai/clip-vit-large-patch14"))
    own = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    folder = tokenizer_beside(beside, version)
    config = read_json(folder / "config.json") if folder and (folder / "config.json").is_file() else None
    config = config or clip_config(own, "quick_gelu")
    parts["text_encoder"] = clip_folder(own, config, folder)
    return _text(flags, config, {} if folder else {"tokenizer": version})


def _open_clip(flags: Flags, tensors: Mapping[str, Tensor], beside: Path, parts: dict[str, Part]) -> Condition:
    flags.only("layer", "last", "penultimate")
    flags.ignore("arch", "version")
    layer = -2 if flags.get("layer", "last") == "penultimate" else -1
    folder = tokenizer_beside(beside, "tokenizer")
    if folder is None:
        raise ConfigError(
            f"the tokenizer of OpenCLIP is not in the file; put the tokenizer of Stable Diffusion 2 (vocab.json, "
            f"merges.txt and tokenizer_config.json, whose pad_token is '!') into {beside / 'tokenizer'}"
        )
    own = from_open_clip({name.removeprefix("model."): value for name, value in tensors.items()})
    config = clip_config(own, "gelu")
    parts["text_encoder"] = clip_folder(own, config, folder)
    return _text(flags, config, {"layer": layer})


def _text(flags: Flags, config: Mapping[str, Any], more: Mapping[str, Any]) -> Condition:
    flags.ignore("device", "freeze")
    length = int(flags.get("max_length", 77))
    overrides = encoder_overrides(config, **more) | {"text_encoder.length": length, "sampler.steps": 50}
    return Condition(overrides, int(config["hidden_size"]))


def tokenizer_beside(beside: Path, name: str) -> Path | None:
    """A folder with a tokenizer beside the config."""
    return next((folder for folder in (beside / name, beside / "tokenizer") if has_tokenizer(folder)), None)
