"""The names of OpenAI's U-Net, which guided-diffusion, improved-diffusion, consistency models and latent diffusion use.

Its blocks lie in the order of :class:`diffusion.network.unet.UNet`: ``input_blocks.0.0`` is the stem, and
``input_blocks.<i + 1>.<j>`` layer j of the i-th stage on the way down, so that the network itself gives the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from diffusion.network.blocks import AttentionBlock, Downsample, ResBlock, Upsample
from diffusion.network.transformer import SpatialTransformer
from diffusion.pretrained.base import NETWORK, Link
from diffusion.pretrained.transforms import CONVOLVED, JOINED, MATRIX, PAIR, SAME, Transform, by_head

Order = Literal["new", "legacy"]
"""Of the channels of queries, keys and values: ([q k v], head, d), or (head, [q k v], d)."""
RES = {"norm1": "in_layers.0", "conv1": "in_layers.2", "emb": "emb_layers.1", "norm2": "out_layers.0",
       "conv2": "out_layers.3", "skip": "skip_connection"}  # fmt: skip


def unet_links(network: nn.Module, order: Order, prefix: str = "") -> Iterator[Link]:
    """The links of every tensor of a U-Net.

    Args:
        network: a :class:`diffusion.network.unet.UNet`.
        order: of the channels of queries, keys and values.
        prefix: of the names in the file, such as ``model.diffusion_model.``.
    """
    net: Any = network
    yield from both("embedding.linear1", f"{prefix}time_embed.0")
    yield from both("embedding.linear2", f"{prefix}time_embed.2")
    if net.embedding.joint is not None:
        yield from both("embedding.joint.0", f"{prefix}label_emb.0.0")
        yield from both("embedding.joint.2", f"{prefix}label_emb.0.2")
    yield from both("stem", f"{prefix}input_blocks.0.0")
    for i, stage in enumerate(net.down):
        yield from _stage(stage, f"down.{i}", f"{prefix}input_blocks.{i + 1}", order)
    yield from _stage(net.middle, "middle", f"{prefix}middle_block", order)
    for i, stage in enumerate(net.up):
        yield from _stage(stage, f"up.{i}", f"{prefix}output_blocks.{i}", order)
    yield from both("norm", f"{prefix}out.0")
    yield from both("head", f"{prefix}out.2")


def stage_links(network: nn.Module, order: Order) -> Iterator[Link]:
    """The links of a noisy classifier's way down, without its pool."""
    net: Any = network
    yield from both("embedding.linear1", "time_embed.0")
    yield from both("embedding.linear2", "time_embed.2")
    yield from both("stem", "input_blocks.0.0")
    for i, stage in enumerate(net.down):
        yield from _stage(stage, f"down.{i}", f"input_blocks.{i + 1}", order)
    yield from _stage(net.middle, "middle", "middle_block", order)


def _stage(stage: Any, ours: str, theirs: str, order: Order) -> Iterator[Link]:
    for j, layer in enumerate(stage):
        yield from _layer(layer, f"{ours}.{j}", f"{theirs}.{j}", order)


def _layer(layer: nn.Module, ours: str, theirs: str, order: Order) -> Iterator[Link]:
    if isinstance(layer, ResBlock):
        for mine, name in RES.items():
            if not isinstance(getattr(layer, mine), nn.Identity):
                yield from both(f"{ours}.{mine}", f"{theirs}.{name}")
    elif isinstance(layer, AttentionBlock):
        qkv = MATRIX if order == "new" else by_head(layer.attention.heads)
        yield from both(f"{ours}.norm", f"{theirs}.norm")
        yield Link(f"{NETWORK}{ours}.attention.qkv.weight", (f"{theirs}.qkv.weight",), qkv)
        yield Link(f"{NETWORK}{ours}.attention.qkv.bias", (f"{theirs}.qkv.bias",), SAME if order == "new" else qkv)
        yield from both(f"{ours}.attention.out", f"{theirs}.proj_out", MATRIX)
    elif isinstance(layer, SpatialTransformer):
        yield from transformer_links(layer, ours, theirs)
    elif isinstance(layer, Downsample):
        yield from both(f"{ours}.conv", f"{theirs}.op")
    elif isinstance(layer, Upsample):
        yield from both(f"{ours}.conv", f"{theirs}.conv")


def transformer_links(layer: SpatialTransformer, ours: str, theirs: str, linear: bool = False) -> Iterator[Link]:
    """The links of a transformer of latent diffusion, whose names diffusers has kept.

    linear: its outer maps are written as matrices, not as 1x1 convolutions; both are read.
    """
    yield from both(f"{ours}.norm", f"{theirs}.norm")
    for name in ("proj_in", "proj_out"):
        yield from both(f"{ours}.{name}", f"{theirs}.{name}", MATRIX if linear else CONVOLVED)
    for n, block in enumerate(layer.stack):
        mine, name = f"{ours}.stack.{n}", f"{theirs}.transformer_blocks.{n}"
        maps = {
            "attention.qkv": (JOINED, ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
            "cross.q": (SAME, ("attn2.to_q",)),
            "cross.kv": (PAIR, ("attn2.to_k", "attn2.to_v")),
        }
        pairs = {"norm1": "norm1", "attention.out": "attn1.to_out.0", "norm2": "norm2", "cross.out": "attn2.to_out.0",
                 "norm3": "norm3", "gate": "ff.net.0.proj", "out": "ff.net.2"}  # fmt: skip
        there = {key.rpartition(".")[0] for key in block.state_dict()}
        for key, (how, names) in maps.items():
            if key in there:
                yield Link(f"{NETWORK}{mine}.{key}.weight", tuple(f"{name}.{x}.weight" for x in names), how)
        for key, other in pairs.items():
            if key in there:
                yield from both(f"{mine}.{key}", f"{name}.{other}")


def both(ours: str, theirs: str, how: Transform = SAME) -> Iterator[Link]:
    """Weight and bias of a layer of the network."""
    yield Link(f"{NETWORK}{ours}.weight", (f"{theirs}.weight",), how)
    yield Link(f"{NETWORK}{ours}.bias", (f"{theirs}.bias",))
