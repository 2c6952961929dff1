"""SDXL, base and refiner, in the files of its own code: a ``DiffusionEngine`` with several embedders of conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.network.embedding import COMPONENTS
from diffusion.pretrained.base import Link, Part, Published, refuse
from diffusion.pretrained.diffusers_folder import latents
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.latent.condition import tokenizer_beside
from diffusion.pretrained.latent.first_stage import autoencoder_part
from diffusion.pretrained.latent.sdxl import conditioned, encoders, expect_widths
from diffusion.pretrained.latent.text_encoders import INDEX, clip_config, clip_folder, from_open_clip
from diffusion.pretrained.openai_flags import unet
from diffusion.pretrained.openai_unet import unet_links

UNET, STAGE, EMBEDDERS = "model.diffusion_model.", "first_stage_model.", "conditioner.embedders."
SIZE = 128
"""Of the latents that it is built for, as no setting says it: of images of 1024 x 1024."""
NUMBERS = {"original_size_as_tuple": "size", "crop_coords_top_left": "crop", "target_size_as_tuple": "target_size",
           "aesthetic_score": "score"}  # fmt: skip
"""Column that an embedder reads there -> number of the condition here."""
TARGETS = {"EpsScaling": "epsilon", "VScaling": "velocity"}
TRAINING = ("disable_first_stage_autocast", "disable_first_stage_amp", "loss_fn_config", "sampler_config", "use_ema",
            "optimizer_config", "scheduler_config", "ema_decay_rate", "input_key", "log_keys", "no_cond_log",
            "compile_model", "ckpt_path", "ckpt_config", "en_and_decode_n_samples_a_time",
            "network_wrapper")  # fmt: skip
UNREAD = {"logit_scale": "of contrasts between texts and images", "attn_mask": "computed",
          "text_projection": "of a vector that is not read"}  # fmt: skip
"""Tensors of an open_clip tower that nothing here is made of."""


def read_engine(settings: Mapping[str, Any], state: Mapping[str, Tensor], path: Path, beside: Path) -> Published:
    """What the tensors of a file and the settings of a ``DiffusionEngine`` stand for.

    beside: the folder of the config, where the tokenizers' folders may lie.

    Raises:
        ConfigError: settings that are missing or not supported, other tensors than they say.
    """
    flags = Flags(settings, "the config of DiffusionEngine")
    flags.ignore(*TRAINING)
    overrides, order = _network(Flags(parameters(flags.need("network_config"), "UNetModel"), "network_config"), state)
    parts: dict[str, Part] = {}
    scale, stage = float(flags.get("scale_factor", 1.0)), flags.need("first_stage_config")
    under = {name.removeprefix(STAGE): value for name, value in state.items() if name.startswith(STAGE)}
    parts["autoencoder"], config = autoencoder_part(
        str(stage.get("target", "")), stage.get("params") or {}, under, scale
    )
    overrides = {**latents(overrides, "kl", config), "autoencoder.scale": scale}
    models = parameters(flags.need("conditioner_config"), "GeneralConditioner").get("emb_models") or []
    words, numbers, width, left_out = _embedders(models, state, beside, parts)
    joint = overrides.pop("adm") - width * sum(COMPONENTS.get(name, 1) for name in numbers)
    overrides |= {"network.cond_dim": joint, "network.numbers": list(numbers), "network.joint_features": width}
    expect_widths(overrides, words, str(path))
    overrides |= _process(Flags(parameters(flags.need("denoiser_config"), "DiscreteDenoiser"), "denoiser_config"))
    overrides |= conditioned(words, numbers, zeros="score" not in numbers)
    flags.finish()

    def links(net: nn.Module) -> Iterator[Link]:
        return unet_links(net, order, UNET)

    own = {k: v for k, v in state.items() if not k.startswith((STAGE, EMBEDDERS))}
    facts = {"left out": left_out} if left_out else {}
    return Published(overrides, {"raw": own}, links, parts=parts, files=[path], facts=facts)


def parameters(node: Any, kind: str) -> dict[str, Any]:
    """The arguments of a class that a YAML file names.

    Raises:
        ConfigError: it names another.
    """
    target = str(node.get("target", "")) if isinstance(node, Mapping) else ""
    if target.rpartition(".")[2] != kind:
        raise ConfigError(f"the config is of {target or 'no class'}, and only {kind} is supported here")
    return dict(node.get("params") or {})


def _network(flags: Flags, state: Mapping[str, Tensor]) -> tuple[dict[str, Any], Any]:
    """The sizes of the U-Net, the width of its joint vector as ``adm``, and the order of its attention's channels."""
    if f"{UNET}input_blocks.0.0.weight" not in state:
        raise ConfigError(f"the file has no tensor {UNET}input_blocks.0.0.weight; is format= right?")
    flags.only("num_classes", "sequential")
    flags.need("num_classes")
    channels = int(flags.need("in_channels"))
    flags.only("out_channels", channels)
    flags.only("use_spatial_transformer", True)
    flags.ignore("legacy", "use_bf16", "spatial_transformer_attn_type", "use_linear_in_transformer", "offload_to_cpu",
                 "use_fairscale_checkpoint")  # fmt: skip
    flags.only("transformer_depth_middle", None)
    flags.only("disable_self_attentions", None)
    depth, tokens = flags.get("transformer_depth", 1), flags.need("context_dim")
    widths = set(tokens if isinstance(tokens, list) else [tokens])
    if len(widths) > 1:
        raise ConfigError(f"network_config has context_dim={tokens}, and only one width for all levels is supported")
    joint = int(flags.need("adm_in_channels"))
    order = "new" if flags.get("use_new_attention_order", False) else "legacy"
    flags.values["image_size"] = SIZE  # the U-Net's own is never read there
    found = unet(flags, {"input_blocks.0.0.weight": state[f"{UNET}input_blocks.0.0.weight"]})
    flags.finish()
    sizes = {"network.transformer_depth": depth, "network.token_dim": widths.pop(), "adm": joint}
    return found | sizes, order


def _embedders(
    models: list[Any], state: Mapping[str, Tensor], beside: Path, parts: dict[str, Part]
) -> tuple[dict[str, Any], tuple[str, ...], int, dict[str, str]]:
    """The text encoders' overrides, the numbers in their order, sinusoids of each component; tensors left out."""
    towers: dict[str, Mapping[str, Any]] = {}
    numbers: list[str] = []
    widths: set[int] = set()
    left_out: dict[str, str] = {}
    for i, node in enumerate(models):
        kind, own = str(node.get("target", "")).rpartition(".")[2], Flags(node.get("params") or {}, f"emb_models[{i}]")
        prefix = f"{EMBEDDERS}{i}."
        tensors = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
        if kind == "FrozenCLIPEmbedder" and not towers and not numbers:
            parts["text_encoder"], towers["clip_l"] = _clip(own, tensors, beside)
            if f"transformer.{INDEX}" in tensors:
                left_out[f"{prefix}transformer.{INDEX}"] = "the numbers 0, 1, 2, ..."
        elif kind == "FrozenOpenCLIPEmbedder2" and "clip_g" not in towers and not numbers:
            parts["text_encoder_2"], towers["clip_g"] = _open_clip(own, tensors, beside)
            kept = {name: why for name, why in UNREAD.items() if name != "text_projection"}
            left_out |= {f"{prefix}model.{name}": why for name, why in kept.items() if f"model.{name}" in tensors}
        elif kind == "ConcatTimestepEmbedderND" and node.get("input_key") in NUMBERS:
            numbers.append(NUMBERS[node["input_key"]])
            widths.add(int(own.need("outdim")))
        else:
            raise ConfigError(
                f"the embedder {kind or 'without a target'} of {node.get('input_key')} is not supported as number {i}; "
                f"FrozenCLIPEmbedder, FrozenOpenCLIPEmbedder2 and sizes ({', '.join(NUMBERS)}) are, in this order"
            )
        own.finish()
    if "clip_g" not in towers or len(widths) != 1:
        raise ConfigError("conditioner_config has no FrozenOpenCLIPEmbedder2, or no sizes of one outdim; is it SDXL's?")
    known = tuple(f"{EMBEDDERS}{i}." for i in range(len(models)))
    odd = [name for name in state if name.startswith(EMBEDDERS) and not name.startswith(known)]
    refuse("the file", "has no place among its embedders", sorted(odd))
    return encoders(towers), tuple(numbers), widths.pop(), left_out


def _clip(flags: Flags, tensors: Mapping[str, Tensor], beside: Path) -> tuple[Part, dict[str, Any]]:
    """OpenAI's tower, of which the layer before the last is read."""
    flags.only("layer", "hidden")
    flags.ignore("device", "freeze")
    version = str(flags.get("version", "openai/clip-vit-large-patch14"))
    flags.only("max_length", 77)
    flags.only("always_return_pooled", False)
    own = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    odd = [name for name in own if not name.startswith("text_model.")]
    refuse("the first embedder of the file", "is none of a text tower", odd)
    config = clip_config(own, "quick_gelu")
    flags.need("layer")
    if (layer := int(flags.need("layer_idx"))) != config["num_hidden_layers"] - 1:
        raise ConfigError(
            f"the first embedder reads layer_idx={layer} of {config['num_hidden_layers']} layers, and only the one "
            "before the last is supported here"
        )
    folder = _words(beside, "tokenizer", version, "'<|endoftext|>'")
    return clip_folder(own, config, folder), config


def _open_clip(flags: Flags, tensors: Mapping[str, Tensor], beside: Path) -> tuple[Part, dict[str, Any]]:
    """OpenCLIP's tower, of which the layer before the last is read, and the projected state of the end token."""
    flags.only("layer", "penultimate")
    flags.need("layer")
    flags.only("always_return_pooled", True)
    flags.need("always_return_pooled")
    flags.only("legacy", False)
    flags.only("max_length", 77)
    flags.ignore("arch", "version", "device", "freeze")
    own = {name.removeprefix("model."): value for name, value in tensors.items()}
    known = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", *UNREAD)
    refuse("the tower of OpenCLIP", "is none of a text tower", [name for name in own if not name.startswith(known)])
    named = from_open_clip(own)
    if "text_projection.weight" not in named:
        raise ConfigError("the tower of OpenCLIP in the file has no text_projection, and SDXL reads what it gives")
    config = clip_config(named, "gelu")
    return clip_folder(named, config, _words(beside, "tokenizer_2", "tokenizer_2", "'!'")), config


def _words(beside: Path, place: str, version: str, pad: str) -> Path:
    """The folder of a tokenizer.

    Raises:
        ConfigError: there is none.
    """
    folder = next((f for f in (tokenizer_beside(beside, version), tokenizer_beside(beside, place)) if f), None)
    if folder is None or (place == "tokenizer_2" and folder.name != place):
        raise ConfigError(
            f"tokenizers are not in the file; put {place} of SDXL's folder of diffusers (vocab.json, merges.txt and "
            f"tokenizer_config.json, whose pad_token is {pad}) into {beside / place}"
        )
    return folder


def _process(flags: Flags) -> dict[str, Any]:
    """The table, the target, and Euler's steps as its scripts sample."""
    flags.ignore("weighting_config", "quantize_c_noise")
    flags.only("do_append_zero", False)
    flags.only("flip", True)
    scaling, table = flags.need("scaling_config"), flags.need("discretization_config")
    kind = str(scaling.get("target", "")).rpartition(".")[2]
    if kind not in TARGETS:
        raise ConfigError(f"the scaling {kind} is not supported; {' and '.join(TARGETS)} are")
    own = Flags(parameters(table, "LegacyDDPMDiscretization"), "discretization_config")
    T = int(own.get("num_timesteps", 1000))
    flags.only("num_idx", T)
    ends = {"beta_start": float(own.get("linear_start", 0.00085)), "beta_end": float(own.get("linear_end", 0.012))}
    own.finish()
    flags.finish()
    return {
        "schedule": "scaled_linear",
        "schedule.T": T,
        **{f"schedule.{key}": value for key, value in ends.items()},
        "parameterization": TARGETS[kind],
        "spacing": "trailing",
        "sampler": "euler",
        "sampler.steps": 50,
    }
