"""Latent diffusion, Stable Diffusion 1 and 2 and SDXL in the files of their own codes (Rombach et al. 2022; Podell et
al. 2023): ``.ckpt``, or ``.safetensors`` of the same names, with the YAML file that the code was run with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.pretrained import tensor_files
from diffusion.pretrained.base import Link, Part, Published
from diffusion.pretrained.diffusers_folder import latents
from diffusion.pretrained.flags import Flags, read_flags
from diffusion.pretrained.latent.condition import condition
from diffusion.pretrained.latent.engine import parameters, read_engine
from diffusion.pretrained.latent.first_stage import autoencoder_part
from diffusion.pretrained.openai_flags import unet
from diffusion.pretrained.openai_unet import unet_links

UNET = "model.diffusion_model."
TABLES = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "cosine"}
"""Their names of the tables -> ours: their "linear" is linear in the square root of beta."""
TARGETS = {"eps": "epsilon", "x0": "x0", "v": "velocity"}
TRAINING = ("log_every_t", "loss_type", "ckpt_path", "ignore_keys", "load_only_unet", "monitor", "use_ema",
            "first_stage_key", "cond_stage_key", "cond_stage_trainable", "scheduler_config", "learn_logvar",
            "logvar_init", "original_elbo_weight", "v_posterior", "l_simple_weight", "num_timesteps_cond",
            "use_positional_encodings", "clip_denoised", "cond_stage_forward", "finetune_keys", "unfreeze_model",
            "make_it_fit", "ucg_training", "reset_ema", "reset_num_ema_updates")  # fmt: skip
DROPPED = {
    **dict.fromkeys(
        ("betas", "alphas_*", "sqrt_*", "log_one_minus_*", "posterior_*", "lvlb_weights", "logvar"),
        "a table that the schedule computes",
    ),
    "denoiser.sigmas": "a table that the schedule computes",
    "scale_factor": "in the settings of the autoencoder",
    "model_ema.*": "counts of the average, or its own weights, which are read apart",
}


def read(path: Path, config: Path | None) -> Published:
    """A file, or a folder with one; the YAML beside it or in ``config``.

    Raises:
        ConfigError: settings that are missing or not supported, other tensors than they say.
    """
    if path.is_dir():
        found = sorted([*path.glob("*.ckpt"), *path.glob("*.safetensors")])
        if len(found) != 1:
            raise ConfigError(f"{path} has {len(found)} files of weights; give path= the file")
        path = found[0]
    content = tensor_files.load(path)
    state = tensor_files.tensors_of(
        content.get("state_dict", content) if isinstance(content, Mapping) else content, str(path)
    )
    names = (f"{path.stem}.yaml", "config.yaml", "v1-inference.yaml")
    settings = read_flags(path, config, names)
    beside = config.parent if config is not None else path.parent
    model = settings.get("model")
    if isinstance(model, Mapping) and str(model.get("target")).endswith(".DiffusionEngine"):
        engine = read_engine(parameters(model, "DiffusionEngine"), state, path, beside)
        return replace(engine, weights=_weights(engine.weights["raw"]), dropped=DROPPED)
    flags = Flags(parameters(model, "LatentDiffusion"), "the config of LatentDiffusion")
    network = Flags(parameters(flags.need("unet_config"), "UNetModel"), "unet_config")
    size = int(flags.need("image_size"))
    overrides, order = _unet(network, state, size)
    parts: dict[str, Part] = {}
    overrides |= _first_stage(flags, state, overrides, parts)
    about = condition(flags, _under(state, "cond_stage_model."), beside, parts)
    if about.token_dim != overrides.pop("token_dim"):
        raise ConfigError(f"{path}: the U-Net reads tokens of another width than its condition's {about.token_dim}")
    overrides |= {**_process(flags), **about.overrides}
    flags.finish()
    frozen = ("first_stage_model.", "cond_stage_model.")
    own = {**{k: v for k, v in state.items() if not k.startswith(frozen)}, **about.kept}

    def links(net: nn.Module) -> Iterator[Link]:
        yield from unet_links(net, order, UNET)
        yield from about.links

    return Published(overrides, _weights(own), links, dropped=DROPPED, parts=parts, files=[path])


def _weights(own: Mapping[str, Tensor]) -> dict[str, Mapping[str, Tensor]]:
    """The raw tensors, and those with the U-Net's average in the place of its weights where there is one."""
    averaged = {k: f"model_ema.{k.removeprefix('model.').replace('.', '')}" for k in own if k.startswith(UNET)}
    if not any(name in own for name in averaged.values()):
        return {"raw": own}
    rest = {k: v for k, v in own.items() if k not in averaged and k not in averaged.values()}
    return {"raw": own, "ema": rest | {k: own[name] for k, name in averaged.items() if name in own}}


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _unet(flags: Flags, state: Mapping[str, Tensor], size: int) -> tuple[dict[str, Any], Any]:
    """The sizes of the U-Net, its width of tokens as ``token_dim``, and the order of its attention's channels."""
    if f"{UNET}input_blocks.0.0.weight" not in state:
        raise ConfigError(f"the file has no tensor {UNET}input_blocks.0.0.weight; is format= right?")
    channels = int(flags.need("in_channels"))
    flags.only("num_classes", None)
    flags.only("n_embed", None)
    flags.only("out_channels", channels)
    flags.ignore("legacy", "use_bf16", "spatial_transformer_attn_type", "use_linear_in_transformer")
    order = "new" if flags.get("use_new_attention_order", False) else "legacy"
    transformers = bool(flags.get("use_spatial_transformer", False))
    depth, tokens = flags.get("transformer_depth", 1), flags.get("context_dim", 0)
    flags.values["image_size"] = size  # the U-Net's own is never read there
    if flags.values.get("num_heads") == -1:
        del flags.values["num_heads"]
    found = unet(flags, {"input_blocks.0.0.weight": state[f"{UNET}input_blocks.0.0.weight"]})
    flags.finish()
    tokens = tokens if isinstance(tokens, int) else tokens[0]
    return found | {
        "network.transformer_depth": depth if transformers else None,
        "token_dim": tokens if transformers else 0,
    }, order


def _first_stage(
    flags: Flags, state: Mapping[str, Tensor], sizes: dict[str, Any], parts: dict[str, Part]
) -> dict[str, Any]:
    stage = flags.need("first_stage_config")
    by_std = bool(flags.get("scale_by_std", False))
    scale = (
        float(state["scale_factor"]) if by_std and "scale_factor" in state else float(flags.get("scale_factor", 1.0))
    )
    flags.only("channels", sizes["data.channels"])
    target = str(stage.get("target", ""))
    if target.endswith("IdentityFirstStage"):
        return {"autoencoder": "identity"}
    part, config = autoencoder_part(target, stage.get("params") or {}, _under(state, "first_stage_model."), scale)
    parts["autoencoder"] = part
    kind = {"AutoencoderKL": "kl", "VQModel": "vq"}[config["_class_name"]]
    return {**latents(sizes, kind, config), "autoencoder.scale": scale}


def _process(flags: Flags) -> dict[str, Any]:
    """The table, the target, and DDIM as their scripts sample."""
    flags.ignore(*TRAINING)
    flags.only("given_betas", None)
    flags.only("beta_schedule", *TABLES)
    flags.only("parameterization", *TARGETS)
    flags.only("cosine_s", 8e-3)
    kind, T = TABLES[flags.get("beta_schedule", "linear")], int(flags.get("timesteps", 1000))
    ends = {"beta_start": float(flags.get("linear_start", 1e-4)), "beta_end": float(flags.get("linear_end", 2e-2))}
    return {
        "schedule": kind,
        "schedule.T": T,
        **({} if kind == "cosine" else {f"schedule.{key}": value for key, value in ends.items()}),
        "parameterization": TARGETS[flags.get("parameterization", "eps")],
        "spacing": "uniform",
        "spacing.offset": 1,
        "sampler": "ddim",
        "sampler.final": "first",
    }
