"""Text encoders of a run as folders of ``transformers``, each beside its tokenizer, as in pipelines of diffusers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion.errors import ConfigError
from diffusion.pretrained import tensor_files
from diffusion.pretrained.diffusers_folder import read_json, write_json
from diffusion.pretrained.latent.text_encoders import TOKENIZER, clip_folder, with_prefix
from diffusion.text_encoder.pretrained import fetched

TEXT_MODEL, PROJECTED = "CLIPTextModel", "CLIPTextModelWithProjection"
LAYERS = "text_model.encoder.layers."
T5_WORDS = ("spiece.model", "added_tokens.json", *TOKENIZER)


def write_clip(node: Mapping[str, Any], folder: Path, number: str, norm: bool, pooled: str) -> dict[str, list[str]]:
    """A tower of CLIP in ``text_encoder<number>``, its tokenizer in ``tokenizer<number>`` -> their lines of
    ``model_index.json``.

    Args:
        node: the encoder's config.
        norm: the pipeline reads the last layer after the final norm; else the one before the last, without it.
        pooled: what it reads of the text as a whole: none or projection.

    Raises:
        ConfigError: an encoder that is read otherwise than pipelines do.
    """
    expect_target(node, "CLIPTextEncoder")
    layer, last = int(node["layer"]), -1 if norm else -2
    wrong = {
        "norm": node["norm"] is not norm,
        "layer": layer > last if norm else layer != last,
        "pooled": pooled == "projection" and node["pooled"] != "projection",
        "mask": node["mask"],
    }
    if found := [f"{key}={node[key]}".lower() for key, there in wrong.items() if there]:
        due = f"norm={norm} layer={last} pooled={pooled} mask=False".lower()
        raise ConfigError(
            f"diffusers' pipeline reads its text encoder{number} with {due}, and this run with {', '.join(found)}; "
            "use format=safetensors"
        )
    source = fetched(str(node["pretrained"]), "pretrained")
    config = read_json(source / "config.json")
    config = {**config.get("text_config", config), "model_type": "clip_text_model"}
    count = int(config["num_hidden_layers"]) + 1 + (layer if norm else -1)  # layers that are read
    kind = PROJECTED if pooled == "projection" else TEXT_MODEL
    tensors = with_prefix(tensor_files.tensors_of(tensor_files.load(source / "model.safetensors"), str(source)))
    kept = {
        name: value
        for name, value in tensors.items()
        if (name.startswith("text_model.") or (kind == PROJECTED and name.startswith("text_projection.")))
        and not (name.startswith(LAYERS) and int(name.removeprefix(LAYERS).split(".")[0]) >= count)
    }
    encoder, words = folder / f"text_encoder{number}", folder / f"tokenizer{number}"
    encoder.mkdir(parents=True)
    clip_folder(kept, {**config, "architectures": [kind], "num_hidden_layers": count}, None).write(encoder)
    write_tokenizer(source if node["tokenizer"] is None else fetched(str(node["tokenizer"]), "tokenizer"), words, node)
    return {encoder.name: ["transformers", kind], words.name: ["transformers", "CLIPTokenizer"]}


def write_t5(node: Mapping[str, Any] | None, folder: Path) -> dict[str, list[str | None]]:
    """T5's encoder in ``text_encoder_3`` with ``tokenizer_3``, or their absence -> their lines of the index.

    Raises:
        ConfigError: an encoder that is read otherwise than pipelines do.
    """
    if node is None:
        return {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    expect_target(node, "T5TextEncoder")
    if node["mask"]:
        raise ConfigError("diffusers' pipeline lets its network attend to padding, and this run has mask=true for T5")
    source = fetched(str(node["pretrained"]), "pretrained")
    (folder / "text_encoder_3").mkdir()
    for file in sorted(source.iterdir()):
        if file.name not in T5_WORDS and file.suffix in (".json", ".safetensors"):
            shutil.copy2(file, folder / "text_encoder_3" / file.name)
    words = source if node["tokenizer"] is None else fetched(str(node["tokenizer"]), "tokenizer")
    write_tokenizer(words, folder / "tokenizer_3", node, T5_WORDS)
    return {"text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer_3": ["transformers", "T5TokenizerFast"]}


def write_tokenizer(source: Path, target: Path, node: Mapping[str, Any], names: tuple[str, ...] = TOKENIZER) -> None:
    """Its files, and the length that texts are padded to."""
    target.mkdir(parents=True)
    for file in (source / name for name in names):
        if file.is_file():
            shutil.copy2(file, target / file.name)
    path = target / "tokenizer_config.json"
    own = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if own.get("model_max_length") != node["length"]:
        write_json(path, {**own, "model_max_length": int(node["length"])})


def expect_target(node: Mapping[str, Any], kind: str) -> None:
    """Raises:
    ConfigError: a text encoder of another class.
    """
    if not str(node["_target_"]).endswith(f".{kind}"):
        raise ConfigError(
            f"diffusers' pipeline reads a {kind} there, and this run has {node['_target_']}; use format=safetensors"
        )
