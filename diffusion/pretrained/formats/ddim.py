"""DDIM (Song et al. 2021, ermongroup/ddim): its training's lists, and DDPM's published weights in the same layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from diffusion.errors import ConfigError
from diffusion.network.blocks import AttentionBlock, Downsample, ResBlock, Upsample
from diffusion.pretrained.base import NETWORK, Link, Published, Tensors, one_file
from diffusion.pretrained.flags import Flags, flattened, read_flags
from diffusion.pretrained.openai_unet import both
from diffusion.pretrained.tensor_files import load, tensors_of, without
from diffusion.pretrained.transforms import JOINED, MATRIX

RES = {"norm1": "norm1", "conv1": "conv1", "emb": "temb_proj", "norm2": "norm2", "conv2": "conv2",
       "skip": "nin_shortcut"}  # fmt: skip
MODEL, EMA = 0, 4
"""Places in the list of a training: model, optimizer, epoch, step, average."""


def read(path: Path, config: Path | None) -> Published:
    """``ckpt.pth`` with its ``config.yml``, or a bare state dict such as the converted ``ema_diffusion_*.ckpt``.

    Raises:
        ConfigError: settings that are missing, unknown, or of what is not supported.
    """
    file = one_file(path, "ckpt.pth", "*.pth", "*.ckpt")
    flags = Flags(
        flattened(read_flags(path, config, ("config.yml", "config.yaml")), "data", "model", "diffusion"),
        "the config of this model",
    )
    overrides = {**_network(flags), **_process(flags)}
    flags.finish()
    return Published(overrides, _weights(file), _links, files=[file])


def _weights(file: Path) -> dict[str, Tensors]:
    content = load(file)
    if not isinstance(content, list):
        return {"ema": without("module.", tensors_of(content, str(file)))}
    if len(content) not in (EMA, EMA + 1):
        raise ConfigError(f"{file} holds a list of {len(content)}, and a DDIM training saves 4, or 5 with an average")
    places = {"raw": MODEL, "ema": EMA}
    return {
        kind: without("module.", tensors_of(content[at], f"{file}, entry {at}"))
        for kind, at in places.items()
        if at < len(content)
    }


def _network(flags: Flags) -> dict[str, Any]:
    flags.only("data.rescaled", True)
    flags.only("data.logit_transform", False)
    flags.only("model.type", "simple", "bayesian")
    flags.only("model.resamp_with_conv", True)
    flags.only("model.conditional", True)
    channels = int(flags.get("model.in_channels", 3))
    flags.only("model.out_ch", channels)
    flags.only("data.channels", channels)
    flags.ignore("data.dataset", "data.category", "data.num_workers", "data.random_flip", "data.root")
    flags.ignore("data.uniform_dequantization", "data.gaussian_dequantization", "model.ema", "model.ema_rate")
    width = int(flags.need("model.ch"))
    return {
        "data.channels": channels,
        "data.resolution": int(flags.need("data.image_size")),
        "data.num_classes": 0,
        "conditioner": "none",
        "network": "_unet",
        "network.channels": width,
        "network.stem_channels": width,
        "network.channel_mult": list(flags.need("model.ch_mult")),
        "network.num_res_blocks": int(flags.need("model.num_res_blocks")),
        "network.attention": list(flags.need("model.attn_resolutions")),
        "network.dropout": float(flags.get("model.dropout", 0.0)),
        "network.scale_shift_norm": False,
        "network.norm_groups": 32,
        "network.variant": "ddpm",
    }


def _process(flags: Flags) -> dict[str, Any]:
    tables = {"linear": "linear", "quad": "scaled_linear"}
    flags.only("diffusion.beta_schedule", *tables)
    flags.only("model.var_type", "fixedlarge", "fixedsmall")
    return {
        "schedule": tables[flags.get("diffusion.beta_schedule", "linear")],
        "schedule.T": int(flags.get("diffusion.num_diffusion_timesteps", 1000)),
        "schedule.beta_start": float(flags.get("diffusion.beta_start", 1e-4)),
        "schedule.beta_end": float(flags.get("diffusion.beta_end", 0.02)),
        "parameterization": "epsilon",
        "sampler": "ddim",
        "spacing": "uniform",
        "guidance": "none",
    }


def _links(network: nn.Module) -> Iterator[Link]:
    """Of every tensor. ``up.<level>`` counts levels from the largest images, so that ``up.0`` runs last."""
    net: Any = network
    yield from both("embedding.linear1", "temb.dense.0")
    yield from both("embedding.linear2", "temb.dense.1")
    yield from both("stem", "conv_in")
    level = block = 0
    for i, stage in enumerate(net.down):
        yield from _stage(stage, f"down.{i}", f"down.{level}", block)
        level, block = (level + 1, 0) if isinstance(stage[0], Downsample) else (level, block + 1)
    for j, (layer, name) in enumerate(zip(net.middle, ("block_1", "attn_1", "block_2"), strict=True)):
        yield from _layer(layer, f"middle.{j}", f"mid.{name}")
    block = 0
    for i, stage in enumerate(net.up):
        yield from _stage(stage, f"up.{i}", f"up.{level}", block)
        level, block = (level - 1, 0) if isinstance(stage[-1], Upsample) else (level, block + 1)
    yield from both("norm", "norm_out")
    yield from both("head", "conv_out")


def _stage(stage: Any, ours: str, theirs: str, block: int) -> Iterator[Link]:
    names = {
        ResBlock: f"block.{block}",
        AttentionBlock: f"attn.{block}",
        Downsample: "downsample",
        Upsample: "upsample",
    }
    for j, layer in enumerate(stage):
        yield from _layer(layer, f"{ours}.{j}", f"{theirs}.{names[type(layer)]}")


def _layer(layer: nn.Module, ours: str, theirs: str) -> Iterator[Link]:
    if isinstance(layer, ResBlock):
        for mine, name in RES.items():
            if not isinstance(getattr(layer, mine), nn.Identity):
                yield from both(f"{ours}.{mine}", f"{theirs}.{name}")
    elif isinstance(layer, AttentionBlock):
        yield from both(f"{ours}.norm", f"{theirs}.norm")
        for kind in ("weight", "bias"):
            parts = tuple(f"{theirs}.{x}.{kind}" for x in "qkv")
            yield Link(f"{NETWORK}{ours}.attention.qkv.{kind}", parts, JOINED)
        yield from both(f"{ours}.attention.out", f"{theirs}.proj_out", MATRIX)
    else:
        yield from both(f"{ours}.conv", f"{theirs}.conv")
