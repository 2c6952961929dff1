"""The folders of SDXL's pipelines of diffusers: its base model and its refiner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion.errors import ConfigError
from diffusion.pretrained.base import Published
from diffusion.pretrained.diffusers_folder import latents, read_json, tensors_of
from diffusion.pretrained.diffusers_scheduler import scheduler
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.latent.pipeline import autoencoder, clip_part
from diffusion.pretrained.latent.unet_condition import REFINER, SDXL, read_unet_condition

CLASSES = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",), "text_encoder": ("CLIPTextModel", None),
           "text_encoder_2": ("CLIPTextModelWithProjection",)}  # fmt: skip
BESIDE = ("scheduler", "tokenizer", "tokenizer_2")
LEFT_OUT = ("feature_extractor",)
"""Of a folder, and of no use without an image encoder."""
SCALE = 5.0
"""Of both pipelines' guidance."""


def read_sdxl(folder: Path, index: Mapping[str, Any]) -> Published:
    """The U-Net, with the autoencoder and both text encoders, or the refiner's one, with their tokenizers as parts.

    index: ``model_index.json``.

    Raises:
        ConfigError: a model or a field of a config that is not supported, or files that are missing.
    """
    kinds = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[-1] is not None}
    for name, supported in CLASSES.items():
        if kinds.get(name) not in supported:
            raise ConfigError(f"{folder}: {name} is {kinds.get(name)}, and only {supported[0]} is supported here")
    if extra := sorted(kinds.keys() - {*CLASSES, *BESIDE, *LEFT_OUT}):
        raise ConfigError(f"{folder} is a pipeline with {', '.join(extra)}, which is not supported here")
    numbers = REFINER if index.get("requires_aesthetics_score", False) else SDXL
    overrides, links = read_unet_condition(read_json(folder / "unet" / "config.json"), numbers)
    target = scheduler(read_json(folder / "scheduler" / "scheduler_config.json"), latent=True)
    towers = [("clip_l", ""), ("clip_g", "_2")] if "text_encoder" in kinds else [("clip_g", "_2")]
    configs = {name: read_json(folder / f"text_encoder{number}" / "config.json") for name, number in towers}
    words = encoders(configs)
    expect_widths(overrides, words, str(folder))
    parts = {f"text_encoder{number}": clip_part(folder, configs[name], number) for name, number in towers}
    parts["autoencoder"] = autoencoder(folder / "vae")
    tensors, files = tensors_of(folder / "unet")
    zeros = bool(index.get("force_zeros_for_empty_prompt", True))
    own = latents(overrides, "kl", read_json(folder / "vae" / "config.json")) | target
    own |= conditioned(words, numbers, zeros)
    facts = {"left out": {name: kinds[name] for name in LEFT_OUT if name in kinds}}
    about = facts if facts["left out"] else {}
    return Published(own, {"ema": tensors}, lambda net: links(net, tensors), parts=parts, files=files, facts=about)


def encoders(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The overrides of both towers, or of the refiner's one.

    configs: of ``transformers``, of ``clip_l`` where there is one, and of ``clip_g``.
    """
    both = "clip_l" in configs
    words: dict[str, Any] = {"text_encoder": "sdxl" if both else "clip_g"}
    dim = 0
    for name, config in configs.items():
        flags, place = Flags(config, f"the config of {name}"), f"text_encoder.{name}" if both else "text_encoder"
        words[f"{place}.pretrained"] = "{part:text_encoder}" if name == "clip_l" else "{part:text_encoder_2}"
        words[f"{place}.dim"] = int(flags.need("hidden_size"))
        words[f"{place}.length"] = int(flags.need("max_position_embeddings"))
        words[f"{place}.mask"] = False
        dim += words[f"{place}.dim"]
    pooled = int(configs["clip_g"]["projection_dim"])
    if both:
        words["text_encoder.clip_g.pooled_dim"] = pooled
    return {**words, "text_encoder.dim": dim, "text_encoder.pooled_dim": pooled}


def expect_widths(overrides: dict[str, Any], words: Mapping[str, Any], where: str) -> None:
    """Takes the widths that the U-Net reads out of its overrides.

    Raises:
        ConfigError: they are not those of the text encoders.
    """
    read = overrides.pop("network.token_dim"), overrides.pop("network.cond_dim", 0)
    made = words["text_encoder.dim"], words["text_encoder.pooled_dim"]
    if read != made:
        raise ConfigError(
            f"{where}: the U-Net reads tokens of {read[0]} and a vector of {read[1]}, and its text encoders make "
            f"{made[0]} and {made[1]}; are the files of one model?"
        )


def conditioned(words: Mapping[str, Any], numbers: tuple[str, ...], zeros: bool) -> dict[str, Any]:
    """The overrides of the condition, and of guidance.

    zeros: the null condition is that of no text at all, rather than of the empty one.
    """
    return {
        "conditioner": "sdxl",
        **words,
        "conditioner.parts.text.null": "zeros" if zeros else "empty",
        "conditioner.parts.sizes.numbers": list(numbers),
        "guidance": "classifier_free",
        "guidance.classifier_free.scale": SCALE,
    }
