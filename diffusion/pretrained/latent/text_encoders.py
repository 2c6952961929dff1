"""CLIP's text towers as folders of ``transformers``: weights, config and tokenizer in one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.errors import ConfigError
from diffusion.files import write_atomic
from diffusion.pretrained.base import Part

TOKENIZER = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
INDEX = "text_model.embeddings.position_ids"
"""0, 1, 2, ... in old files."""
HEAD = 64
"""Channels of a head of every published tower."""
BLOCK = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
         "mlp.fc2": "mlp.c_proj"}  # fmt: skip
"""transformers' name of a layer -> OpenCLIP's."""


def clip_folder(tensors: Mapping[str, Tensor], config: Mapping[str, Any], tokenizer: Path | None) -> Part:
    """A tower as a part: its tensors under transformers' names, with ``text_model.`` before them, and the files of a
    tokenizer in the folder ``tokenizer``."""
    kept = {name: value for name, value in tensors.items() if name != INDEX}

    def write(target: Path) -> None:
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in kept.items()}, target / "model.safetensors", {"format": "pt"})
        write_atomic(target / "config.json", json.dumps(config, indent=2) + "\n")
        for file in [] if tokenizer is None else [tokenizer / name for name in TOKENIZER]:
            if file.is_file():
                shutil.copy2(file, target / file.name)

    return Part(write)


def with_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tower's tensors under the names of transformers 4, which 5 reads too: its own lack ``text_model.``."""
    known = ("text_model.", "text_projection.", "vision_model.", "visual_projection.", "logit_scale")
    return {name if name.startswith(known) else f"text_model.{name}": value for name, value in tensors.items()}


def has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or all((folder / name).is_file() for name in TOKENIZER[:2])


def clip_config(tensors: Mapping[str, Tensor], act: str) -> dict[str, Any]:
    """The config of a tower whose heads have 64 channels.

    act: quick_gelu (OpenAI's) or gelu (OpenCLIP's).
    """
    words, width = tensors["text_model.embeddings.token_embedding.weight"].shape
    projection = tensors.get("text_projection.weight")
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "hidden_act": act,
        "hidden_size": width,
        "intermediate_size": len(tensors["text_model.encoder.layers.0.mlp.fc1.bias"]),
        "max_position_embeddings": len(tensors["text_model.embeddings.position_embedding.weight"]),
        "num_attention_heads": max(width // HEAD, 1),
        "num_hidden_layers": 1 + max(int(k.split(".")[3]) for k in tensors if k.startswith("text_model.encoder.")),
        "projection_dim": width if projection is None else len(projection),
        "vocab_size": words,
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
    }


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's names -> those of transformers; queries, keys and values are one matrix there, and the projection is
    applied from the right.

    Raises:
        ConfigError: a tensor is missing.
    """
    try:
        found = {
            "text_model.embeddings.token_embedding.weight": tensors["token_embedding.weight"],
            "text_model.embeddings.position_embedding.weight": tensors["positional_embedding"],
        }
        if "text_projection" in tensors:
            found["text_projection.weight"] = tensors["text_projection"].T
        count = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("transformer.resblocks."))
        for kind in ("weight", "bias"):
            found[f"text_model.final_layer_norm.{kind}"] = tensors[f"ln_final.{kind}"]
            for n in range(count):
                ours, theirs = f"text_model.encoder.layers.{n}", f"transformer.resblocks.{n}"
                maps: Sequence[Tensor] = torch.chunk(tensors[f"{theirs}.attn.in_proj_{kind}"], 3)
                found |= {f"{ours}.self_attn.{x}_proj.{kind}": m for x, m in zip("qkv", maps, strict=True)}
                found |= {f"{ours}.{a}.{kind}": tensors[f"{theirs}.{b}.{kind}"] for a, b in BLOCK.items()}
    except (KeyError, ValueError) as error:
        raise ConfigError(f"the text encoder of the file is no OpenCLIP text tower: it lacks {error}") from None
    return found


def encoder_overrides(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Stable Diffusion's use of a tower: every token counts, padding included."""
    return {
        "conditioner": "text",
        "text_encoder": "clip",
        "text_encoder.pretrained": "{part:text_encoder}",
        "text_encoder.dim": int(config["hidden_size"]),
        "text_encoder.length": int(config.get("max_position_embeddings", 77)),
        "text_encoder.mask": False,
        **{f"text_encoder.{key}": value for key, value in more.items()},
        "guidance": "classifier_free",
        "guidance.classifier_free.scale": 7.5,
    }
