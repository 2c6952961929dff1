"""Models on latents with texts as folders of diffusers: Stable Diffusion 1 and 2, SDXL and its refiner, and 3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.sizes import SizesConditioner
from diffusion.conditioner.text import TextConditioner
from diffusion.errors import ConfigError
from diffusion.model import DiffusionModel
from diffusion.network.mmdit import MMDiT
from diffusion.pretrained.diffusers_folder import LIBRARY, named, version, write_autoencoder, write_json, write_model
from diffusion.pretrained.diffusers_scheduler_export import scheduler_config
from diffusion.pretrained.latent.sd3_transformer import sd3_config, sd3_links
from diffusion.pretrained.latent.text_export import expect_target, write_clip, write_t5
from diffusion.pretrained.latent.unet_condition import REFINER, unet_condition_links
from diffusion.pretrained.latent.unet_condition_export import is_linear, unet_condition_config

T5_LENGTH = 256
"""Tokens of T5 that the pipeline reads where nothing is said."""


def write_pipeline(model: DiffusionModel, config: Mapping[str, Any], folder: Path) -> None:
    """Writes network, scheduler, autoencoder, text encoders, tokenizers and ``model_index.json`` into an empty folder.

    config: the run's, resolved, in plain containers.

    Raises:
        ConfigError: what diffusers has no counterpart for.
    """
    net, state, own = model.denoiser.network, model.state_dict(), config["network"]
    flow = isinstance(net, MMDiT)
    if flow:
        place, described, tensors = "transformer", sd3_config(config), named(sd3_links(net, {}), state)
    else:
        place, described = "unet", unet_condition_config(config)
        tensors = named(unet_condition_links(net, {}, is_linear(own)), state)
    texts = _stable_diffusion_3 if flow else _sdxl if own["joint_features"] else _stable_diffusion
    kind, index = texts(model, config, folder)
    scheduler = scheduler_config(model, config)
    if kind.startswith("LatentConsistency") and scheduler["_class_name"] != "LCMScheduler":
        raise ConfigError(
            f"{kind} of diffusers tells the network a guidance scale and steps with LCMScheduler, and this run samples "
            f"as {scheduler['_class_name']} does; train with sampler=consistency, or use format=safetensors"
        )
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_model(folder / place, described, tensors)
    coder = write_autoencoder(model, config, folder / "vae", shifted=flow)
    if coder != "AutoencoderKL":
        raise ConfigError(
            f"{kind} decodes with AutoencoderKL, and this run with {coder or 'none'}; use format=safetensors"
        )
    index |= {"scheduler": [LIBRARY, scheduler["_class_name"]], "vae": [LIBRARY, coder]}
    index[place] = [LIBRARY, described["_class_name"]]
    write_json(folder / "model_index.json", {"_class_name": kind, "_diffusers_version": version(), **index})


Index = dict[str, Any]
NONE = [None, None]


def _stable_diffusion(model: DiffusionModel, config: Mapping[str, Any], folder: Path) -> tuple[str, Index]:
    """A student that is told the guidance scale is a latent consistency model, whose pipeline tells it."""
    told = "guidance" in config["network"]["numbers"]
    kind = "LatentConsistencyModelPipeline" if told else "StableDiffusionPipeline"
    node = _text(model.conditioner, config["conditioner"], kind, ("empty",))
    index = write_clip(node["encoder"], folder, "", norm=True, pooled="none")
    beside = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"), NONE)
    return kind, {**index, **beside, "requires_safety_checker": False}


def _sdxl(model: DiffusionModel, config: Mapping[str, Any], folder: Path) -> tuple[str, Index]:
    """The refiner is the pipeline that begins with an image."""
    own, node = model.conditioner, config["conditioner"]
    parts = own.parts if isinstance(own, JoinedConditioner) else {}
    kinds = {type(part): name for name, part in parts.items()}
    if kinds.keys() != {TextConditioner, SizesConditioner}:
        raise ConfigError(
            "StableDiffusionXLPipeline is conditioned on a text and on sizes (conditioner=sdxl), and this run on "
            f"{type(own).__name__}; use format=safetensors"
        )
    sizes: Any = parts[kinds[SizesConditioner]]
    words = node["parts"][kinds[TextConditioner]]
    refines = tuple(sizes.numbers) == REFINER
    kind = "StableDiffusionXLImg2ImgPipeline" if refines else "StableDiffusionXLPipeline"
    if sizes.image_size != config["data"]["resolution"] or (sizes.score, sizes.negative_score) != (6.0, 2.5):
        raise ConfigError(
            f"{kind} tells the network the size of the image that it draws and scores of 6.0 and 2.5, and this run "
            f"{sizes.image_size}, {sizes.score} and {sizes.negative_score}; use format=safetensors"
        )
    encoder = _text(parts[kinds[TextConditioner]], words, kind, ("empty", "zeros"))["encoder"]
    index: Index = {"text_encoder": NONE, "tokenizer": NONE}
    second = encoder
    if str(encoder["_target_"]).endswith(".SDXLTextEncoder"):
        index |= write_clip(encoder["clip_l"], folder, "", norm=False, pooled="none")
        second = encoder["clip_g"]
    index |= write_clip(second, folder, "_2", norm=False, pooled="projection")
    index |= dict.fromkeys(("feature_extractor", "image_encoder"), NONE)
    if refines:
        index["requires_aesthetics_score"] = True
    return kind, {**index, "force_zeros_for_empty_prompt": words["null"] == "zeros", "add_watermarker": False}


def _stable_diffusion_3(model: DiffusionModel, config: Mapping[str, Any], folder: Path) -> tuple[str, Index]:
    kind = "StableDiffusion3Pipeline"
    encoder = _text(model.conditioner, config["conditioner"], kind, ("empty",))["encoder"]
    expect_target(encoder, "SD3TextEncoder")
    if encoder["t5_length"] != T5_LENGTH:
        raise ConfigError(
            f"{kind} reads {T5_LENGTH} tokens of T5, and this run {encoder['t5_length']}; use format=safetensors"
        )
    index: Index = {}
    for name, number in (("clip_l", ""), ("clip_g", "_2")):
        index |= write_clip(encoder[name], folder, number, norm=False, pooled="projection")
    index |= write_t5(encoder["t5"], folder)
    return kind, {**index, "feature_extractor": NONE, "image_encoder": NONE}


def _text(part: Any, node: Mapping[str, Any], kind: str, nulls: tuple[str, ...]) -> Mapping[str, Any]:
    """The config of a text's conditioner, whose null is one that a pipeline has.

    Raises:
        ConfigError: another conditioner, or another null.
    """
    if not isinstance(part, TextConditioner):
        raise ConfigError(
            f"{kind} is conditioned on a text, and this run on {type(part).__name__}; use format=safetensors"
        )
    if node["null"] not in nulls or not node["token_dim"]:
        raise ConfigError(
            f"{kind} knows tokens of a text and a null condition that is {' or '.join(nulls)}, and this run has "
            f"conditioner.token_dim={node['token_dim']} and conditioner.null={node['null']}; use format=safetensors"
        )
    return node
