"""The folder of a ``StableDiffusion3Pipeline`` of diffusers (Stable Diffusion 3 and 3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion.errors import ConfigError
from diffusion.pretrained.base import Part, Published
from diffusion.pretrained.diffusers_folder import copied, latents, read_json, tensors_of
from diffusion.pretrained.diffusers_scheduler import scheduler
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.latent.pipeline import autoencoder, clip_part
from diffusion.pretrained.latent.sd3_transformer import sd3, sd3_links

TOWER = "CLIPTextModelWithProjection"
CLASSES = {"transformer": ("SD3Transformer2DModel",), "vae": ("AutoencoderKL",), "text_encoder": (TOWER,),
           "text_encoder_2": (TOWER,), "text_encoder_3": ("T5EncoderModel", None)}  # fmt: skip
BESIDE = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3")
SCALE = 7.0
"""Of the pipeline's guidance."""


def read_stable_diffusion_3(folder: Path, index: Mapping[str, Any]) -> Published:
    """The transformer, with the autoencoder and the text encoders with their tokenizers as parts; T5 may be absent.

    index: ``model_index.json``.

    Raises:
        ConfigError: a model or a field of a config that is not supported, or files that are missing.
    """
    kinds = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[-1] is not None}
    for name, supported in CLASSES.items():
        if kinds.get(name) not in supported:
            raise ConfigError(f"{folder}: {name} is {kinds.get(name)}, and only {supported[0]} is supported here")
    if extra := sorted(kinds.keys() - {*CLASSES, *BESIDE}):
        raise ConfigError(f"{folder} is a pipeline with {', '.join(extra)}, which is not supported here")
    overrides = sd3(read_json(folder / "transformer" / "config.json"))
    target = scheduler(read_json(folder / "scheduler" / "scheduler_config.json"), latent=True)
    dim, pooled = overrides.pop("network.token_dim"), overrides.pop("network.cond_dim")
    parts = {"autoencoder": autoencoder(folder / "vae")}
    words: dict[str, Any] = {"conditioner": "text", "text_encoder": "sd3", "text_encoder.dim": dim}
    words["text_encoder.pooled_dim"] = pooled
    for name, number in (("clip_l", ""), ("clip_g", "_2")):
        tower = f"text_encoder{number}"
        config = read_json(folder / tower / "config.json")
        flags = Flags(config, f"the config of {tower}")
        parts[tower] = clip_part(folder, config, number)
        own = {"dim": "hidden_size", "pooled_dim": "projection_dim", "length": "max_position_embeddings"}
        words[f"text_encoder.{name}.pretrained"] = f"{{part:{tower}}}"
        words |= {f"text_encoder.{name}.{key}": int(flags.need(theirs)) for key, theirs in own.items()}
    if "text_encoder_3" in kinds:
        parts["text_encoder_3"] = _both(folder / "text_encoder_3", folder / "tokenizer_3")
        words["text_encoder.t5.pretrained"] = "{part:text_encoder_3}"
        words["text_encoder.t5.dim"] = dim
    else:
        words["text_encoder.t5"] = None
    tensors, files = tensors_of(folder / "transformer")
    guided = {"guidance": "classifier_free", "guidance.classifier_free.scale": SCALE}
    own = latents(overrides, "kl", read_json(folder / "vae" / "config.json")) | target | words | guided
    return Published(own, {"ema": tensors}, lambda net: sd3_links(net, tensors), parts=parts, files=files)


def _both(encoder: Path, tokenizer: Path) -> Part:
    """An encoder and its tokenizer in one folder.

    Raises:
        ConfigError: one is missing.
    """
    for folder in (encoder, tokenizer):
        if not folder.is_dir():
            raise ConfigError(f"there is no {folder}; fetch the folder of the pipeline again")
    sources = copied(encoder), copied(tokenizer)

    def write(target: Path) -> None:
        for part in sources:
            part.write(target)

    return Part(write)
