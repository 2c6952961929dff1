"""diffusers' ``DiTTransformer2DModel``, which embeds the noise level and the class in every block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.pretrained.base import NETWORK, Link
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.openai_unet import both
from diffusion.pretrained.transforms import JOINED, TRANSPOSED, Transform

UNUSED = ("norm_num_groups", "norm_eps", "upcast_attention", "num_vector_embeds", "double_self_attention",
          "only_cross_attention", "use_linear_projection", "caption_channels", "cross_attention_dim",
          "use_additional_conditions", "interpolation_scale", "attention_type")  # fmt: skip
"""Of other uses of the class; norm_eps is that of a norm between self- and cross-attention."""


def dit(config: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that its config stands for.

    The classes arrive as one-hot vectors, the last being no class: a block's table of classes is a map of them.

    Raises:
        ConfigError: a field that is not supported.
    """
    flags = Flags({k: v for k, v in config.items() if not k.startswith("_")}, "the config of the transformer")
    flags.only("norm_type", "ada_norm_zero")
    flags.only("activation_fn", "gelu-approximate")
    flags.only("attention_bias", True)
    flags.only("norm_elementwise_affine", False)
    for key in ("cross_attention_dim", "caption_channels", "num_vector_embeds"):
        flags.only(key, None)
    flags.ignore(*UNUSED)
    heads, head = int(flags.get("num_attention_heads", 16)), int(flags.get("attention_head_dim", 72))
    channels, classes = int(flags.get("in_channels", 4)), int(flags.need("num_embeds_ada_norm"))
    out = int(flags.get("out_channels", channels))
    flags.only("out_channels", None, channels, 2 * channels)
    overrides = {
        "data.channels": channels,
        "data.resolution": int(flags.need("sample_size")),
        "data.num_classes": classes,
        "network": "_dit",
        "network.patch": int(flags.get("patch_size", 2)),
        "network.width": heads * head,
        "network.depth": int(flags.get("num_layers", 28)),
        "network.heads": heads,
        "network.dropout": float(flags.get("dropout", 0.0)),
        "network.frequency_shift": 1,
        "network.block_embeddings": True,
        "conditioner": "label",
        "conditioner.num_classes": classes,
        "conditioner.dim": classes + 1,
        "parameterization.learned_variance": out == 2 * channels,
    }
    flags.finish()
    return overrides


def dit_links(network: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[Link]:
    """The links of every tensor."""
    net: Any = network
    yield from both("stem", "pos_embed.proj")
    for i in range(len(net.stack)):
        ours, theirs = f"stack.{i}", f"transformer_blocks.{i}"
        embedding, own = "embedding" if i == 0 else f"embeddings.{i - 1}", f"{theirs}.norm1.emb"
        yield from both(f"{embedding}.linear1", f"{own}.timestep_embedder.linear_1")
        yield from both(f"{embedding}.linear2", f"{own}.timestep_embedder.linear_2")
        table = f"{own}.class_embedder.embedding_table.weight"
        yield Link(f"{NETWORK}{embedding}.condition.weight", (table,), TRANSPOSED)
        yield Link(f"{NETWORK}{embedding}.condition.bias", (), constant(torch.zeros(net.norm.normalized_shape)))
        yield from both(f"{ours}.modulation", f"{theirs}.norm1.linear")
        for kind in ("weight", "bias"):
            maps = tuple(f"{theirs}.attn1.to_{name}.{kind}" for name in "qkv")
            yield Link(f"{NETWORK}{ours}.attention.qkv.{kind}", maps, JOINED)
        yield from both(f"{ours}.attention.out", f"{theirs}.attn1.to_out.0")
        yield from both(f"{ours}.mlp1", f"{theirs}.ff.net.0.proj")
        yield from both(f"{ours}.mlp2", f"{theirs}.ff.net.2")
    yield from both("modulation", "proj_out_1")
    yield from both("head", "proj_out_2")
    yield Link("conditioner.embedding.weight", (), constant(torch.eye(net.embedding.cond_dim)))


def constant(value: Tensor) -> Transform:
    """A tensor that no file holds."""
    return Transform(lambda: value, lambda x: ())


def dit_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """``config.json`` of a network with an embedding in every block; the other kind has other frequencies there.

    Raises:
        ConfigError: a network that diffusers' class cannot hold.
    """
    own = config["network"]
    if not own["block_embeddings"] or own["frequency_shift"] != 1 or own["token_dim"] or own["numbers"]:
        raise ConfigError(
            "diffusers' DiT has an embedding in every block, with frequencies 10000^(-i / (half - 1)), and no tokens "
            "or numbers; this network is another: use format=safetensors, or train with network.block_embeddings=true "
            "network.frequency_shift=1 and conditioner.dim = classes + 1"
        )
    classes = len(state["conditioner.embedding.weight"]) - 1
    channels = int(own["in_channels"])
    return {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": own["heads"],
        "attention_head_dim": own["width"] // own["heads"],
        "in_channels": channels,
        "out_channels": channels * (2 if own["learned_variance"] else 1),
        "num_layers": own["depth"],
        "dropout": own["dropout"],
        "attention_bias": True,
        "sample_size": own["resolution"],
        "patch_size": own["patch"],
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": classes,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-5,
    }
