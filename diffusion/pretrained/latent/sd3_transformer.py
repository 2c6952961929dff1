"""diffusers' ``SD3Transformer2DModel``, the transformer of Stable Diffusion 3 and 3.5: its config, its names both ways.

The stored table of coordinates comes along as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.pretrained.base import NETWORK, Link
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.openai_unet import both
from diffusion.pretrained.transforms import EXCHANGED, JOINED

ATTENTION = {"image.attention": ("attn", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"),
             "text.attention": ("attn", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
                                "norm_added_q", "norm_added_k"),
             "image.second": ("attn2", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k")}  # fmt: skip
REST = {"image.modulation": "norm1.linear", "image.mlp1": "ff.net.0.proj", "image.mlp2": "ff.net.2",
        "text.modulation": "norm1_context.linear", "text.mlp1": "ff_context.net.0.proj",
        "text.mlp2": "ff_context.net.2"}  # fmt: skip


def sd3(config: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that its config stands for: of a network on latents, without what makes its tokens and vector.

    Raises:
        ConfigError: a field that is not supported.
    """
    flags = Flags({k: v for k, v in config.items() if not k.startswith("_")}, "the config of SD3Transformer2DModel")
    heads, head = int(flags.get("num_attention_heads", 18)), int(flags.get("attention_head_dim", 64))
    channels = int(flags.get("in_channels", 16))
    flags.get("caption_projection_dim", heads * head)
    flags.only("caption_projection_dim", heads * head)
    flags.only("out_channels", None, channels)
    flags.only("qk_norm", None, "rms_norm")
    overrides = {
        "data.channels": channels,
        "data.resolution": int(flags.get("sample_size", 128)),
        "network": "_mmdit",
        "network.patch": int(flags.get("patch_size", 2)),
        "network.width": heads * head,
        "network.depth": int(flags.get("num_layers", 18)),
        "network.heads": heads,
        "network.token_dim": int(flags.get("joint_attention_dim", 4096)),
        "network.cond_dim": int(flags.get("pooled_projection_dim", 2048)),
        "network.positions": int(flags.get("pos_embed_max_size", 96)),
        "network.qk_norm": flags.get("qk_norm", None) is not None,
        "network.second_attention": [int(i) for i in flags.get("dual_attention_layers", ())],
        "parameterization.learned_variance": False,
    }
    flags.finish()
    return overrides


def sd3_links(network: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[Link]:
    """The links of every tensor."""
    net: Any = network
    yield from both("embedding.linear1", "time_text_embed.timestep_embedder.linear_1")
    yield from both("embedding.linear2", "time_text_embed.timestep_embedder.linear_2")
    yield from both("embedding.condition.0", "time_text_embed.text_embedder.linear_1")
    yield from both("embedding.condition.2", "time_text_embed.text_embedder.linear_2")
    yield from both("stem", "pos_embed.proj")
    yield Link(f"{NETWORK}coordinates", ("pos_embed.pos_embed",))
    yield from both("context", "context_embedder")
    for i, block in enumerate(net.stack):
        yield from _block(block, f"stack.{i}", f"transformer_blocks.{i}")
    yield from _exchanged("modulation", "norm_out.linear")
    yield from both("head", "proj_out")


def _block(block: nn.Module, ours: str, theirs: str) -> Iterator[Link]:
    """The last block's modulation of the text has a scale before a shift there, as their last layer; no other one."""
    there = {key.rpartition(".")[0] for key in block.state_dict()}
    for mine, (name, q, k, v, out, norm_q, norm_k) in ATTENTION.items():
        if f"{mine}.qkv" in there:
            for kind in ("weight", "bias"):
                maps = tuple(f"{theirs}.{name}.{x}.{kind}" for x in (q, k, v))
                yield Link(f"{NETWORK}{ours}.{mine}.qkv.{kind}", maps, JOINED)
        if f"{mine}.out" in there:
            yield from both(f"{ours}.{mine}.out", f"{theirs}.{name}.{out}")
        for key, norm in (("norm_q", norm_q), ("norm_k", norm_k)):
            if f"{mine}.{key}" in there:
                yield Link(f"{NETWORK}{ours}.{mine}.{key}.weight", (f"{theirs}.{name}.{norm}.weight",))
    for mine, name in REST.items():
        if mine in there:
            last = mine == "text.modulation" and "text.mlp1" not in there
            yield from (_exchanged if last else both)(f"{ours}.{mine}", f"{theirs}.{name}")


def _exchanged(ours: str, theirs: str) -> Iterator[Link]:
    for kind in ("weight", "bias"):
        yield Link(f"{NETWORK}{ours}.{kind}", (f"{theirs}.{kind}",), EXCHANGED)


def sd3_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json`` of a transformer here.

    config: of its run, resolved.

    Raises:
        ConfigError: one that diffusers' class cannot hold.
    """
    own = config["network"]
    refused = {
        "no learned variance": own["learned_variance"],
        "no numbers": own["numbers"],
        "MLPs of four times the width": own["mlp_ratio"] != 4,
        "tokens and a vector of a text": not own["token_dim"] or not own["cond_dim"],
    }
    for what, there in refused.items():
        if there:
            raise ConfigError(f"diffusers' SD3Transformer2DModel has {what}; use format=safetensors")
    side = own["resolution"] // own["patch"]
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": own["resolution"],
        "patch_size": own["patch"],
        "in_channels": own["in_channels"],
        "out_channels": own["in_channels"],
        "num_layers": own["depth"],
        "attention_head_dim": own["width"] // own["heads"],
        "num_attention_heads": own["heads"],
        "caption_projection_dim": own["width"],
        "joint_attention_dim": own["token_dim"],
        "pooled_projection_dim": own["cond_dim"],
        "pos_embed_max_size": side if own["positions"] is None else own["positions"],
        "qk_norm": "rms_norm" if own["qk_norm"] else None,
        "dual_attention_layers": own["second_attention"],
    }
