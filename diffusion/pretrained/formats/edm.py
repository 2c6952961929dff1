"""EDM (Karras et al. 2022): its networks with each of its four preconditionings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from diffusion.errors import ConfigError
from diffusion.pretrained.base import Link, Published, Tensors, one_file
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.nvidia import PREFIX, Module, edm_links, one_hot, read_network
from diffusion.pretrained.transforms import SAME, negated

DROPPED = {
    "*.resample_filter": "the filter, whose taps are in the config",
    f"{PREFIX}map_augment.weight": "of augmentations, zero outside the training",
}


def read(path: Path, config: Path | None) -> Published:
    """``network-snapshot-*.pkl`` or a published pickle, which holds all settings. Of its source text nothing is run.

    Raises:
        ConfigError: a network or a preconditioning that is not supported.
    """
    if config is not None:
        raise ConfigError(f"config={config}: a pickle of EDM holds its own settings; leave config= out")
    file = one_file(path, "*.pkl")
    whole, tensors, _ = read_network(file)
    inner = whole.child("model")
    flags = inner.flags()
    if inner.name not in ("SongUNet", "DhariwalUNet"):
        raise ConfigError(f"{file} holds a {inner.name}, and only SongUNet and DhariwalUNet are supported")
    song = inner.name == "SongUNet"
    overrides = {**_sizes(flags), **(_song(flags) if song else _dhariwal(flags)), **_classes(flags, tensors, song)}
    resolution, mult = overrides["data.resolution"], overrides["network.channel_mult"]
    overrides |= _process(whole, flags, resolution)
    flags.finish()

    def links(network: nn.Module) -> Iterator[Link]:
        head = negated() if whole.name == "VEPrecond" else SAME
        yield from edm_links(network, resolution, len(mult), overrides["network.num_res_blocks"], head)
        if overrides["conditioner"] == "label":
            names = tuple(x for x in (f"{PREFIX}map_label.weight", f"{PREFIX}map_label.bias") if x in tensors)
            gain = math.sqrt(overrides["data.num_classes"]) if song else 1.0
            yield Link("conditioner.embedding.weight", names, one_hot(gain))

    return Published(overrides, {"ema": tensors}, links, DROPPED, files=[file])


def _sizes(flags: Flags) -> dict[str, Any]:
    flags.only("channel_mult_emb", 4)
    flags.ignore("augment_dim")
    return {
        "data.channels": int(flags.need("in_channels")),
        "data.resolution": int(flags.need("img_resolution")),
        "network.dropout": float(flags.get("dropout", 0.1)),
    }


def _song(flags: Flags) -> dict[str, Any]:
    flags.only("embedding_type", "positional", "fourier")
    flags.only("encoder_type", "standard", "residual")
    flags.only("decoder_type", "standard")
    fourier, taps = flags.get("embedding_type", "positional") == "fourier", flags.get("resample_filter", [1, 1])
    flags.only("channel_mult_noise", 1 + fourier)
    return {
        "network": "_song",
        "network.channels": int(flags.get("model_channels", 128)),
        "network.channel_mult": list(flags.get("channel_mult", [1, 2, 2, 2])),
        "network.num_res_blocks": int(flags.get("num_blocks", 4)),
        "network.attention": list(flags.get("attn_resolutions", [16])),
        "network.taps": None if list(taps) == [1, 1] else list(taps),
        "network.fourier_scale": 16.0 if fourier else None,
        "network.residual_input": flags.get("encoder_type", "standard") == "residual",
    }


def _dhariwal(flags: Flags) -> dict[str, Any]:
    return {
        "network": "_unet",
        "network.channels": int(flags.get("model_channels", 192)),
        "network.channel_mult": list(flags.get("channel_mult", [1, 2, 3, 4])),
        "network.num_res_blocks": int(flags.get("num_blocks", 3)),
        "network.attention": list(flags.get("attn_resolutions", [32, 16, 8])),
        "network.head_channels": 64,
        "network.scale_shift_norm": True,
        "network.resblock_updown": True,
        "network.variant": "adm",
    }


def _classes(flags: Flags, tensors: Tensors, song: bool) -> dict[str, Any]:
    count = int(flags.get("label_dim", 0))
    drop = float(flags.get("label_dropout", 0.0))
    if not count:
        return {"data.num_classes": 0, "conditioner": "none"}
    dim = len(tensors[f"{PREFIX}map_label.weight"]) if f"{PREFIX}map_label.weight" in tensors else 0
    return {"data.num_classes": count, "conditioner": "label", "conditioner.num_classes": count, "conditioner.dim": dim,
            "conditioner.drop": drop}  # fmt: skip


def _process(whole: Module, flags: Flags, resolution: int) -> dict[str, Any]:
    """The preconditioning as a target here: D = c_skip x + c_out F of each (their table 1)."""
    about = Flags(
        {k: v for k, v in whole.state.items() if isinstance(v, int | float)}, f"{whole.where}, a {whole.name},"
    )
    groups = int(flags.need("out_channels")) / int(flags.need("in_channels"))
    if groups != (2 if whole.name == "iDDPMPrecond" else 1):
        raise ConfigError(f"{whole.where}: a {whole.name} of {flags.need('out_channels')} channels is not supported")
    sampler = {"sampler": "heun", "sampler.steps": 18 if resolution <= 32 else 40, "guidance": "none"}
    if whole.name == "EDMPrecond":
        spread = float(about.get("sigma_data", 0.5))
        return {**sampler, "schedule": "edm", "parameterization": "edm", "parameterization.sigma_data": spread}
    epsilon = {**sampler, "parameterization": "epsilon"}
    if whole.name == "VPPrecond":
        about.only("M", 1000)
        low = float(about.get("beta_min", 0.1))
        high = low + float(about.get("beta_d", 19.9))
        return {**epsilon, "schedule": "vp", "schedule.beta_min": low, "schedule.beta_max": high}
    if whole.name == "VEPrecond":
        ends = {"schedule.sigma_min": float(about.get("sigma_min", 0.02)),
                "schedule.sigma_max": float(about.get("sigma_max", 100.0))}  # fmt: skip
        units = {"module.model.denoiser.time_scale": 4.0, "module.model.denoiser.time_shift": -math.log(2)}
        return {**epsilon, "schedule": "geometric", **ends, **units}
    if whole.name == "iDDPMPrecond":
        about.only("C_1", 0.001)
        about.only("C_2", 0.008)
        table = {"schedule": "cosine", "schedule.T": int(about.get("M", 1000))}
        return {**epsilon, **table, "parameterization.learned_variance": True}
    raise ConfigError(
        f"{whole.where} is a {whole.name}; EDMPrecond, VPPrecond, VEPrecond and iDDPMPrecond are supported"
    )
