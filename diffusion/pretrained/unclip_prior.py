"""The prior of unCLIP in diffusers' layout (Karlo's)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusion.pretrained.base import NETWORK, Link, Part
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.openai_unet import both
from diffusion.pretrained.transforms import JOINED

BLOCK = {"norm1": "norm1", "attention.out": "attn1.to_out.0", "norm2": "norm3", "mlp1": "ff.net.0.proj",
         "mlp2": "ff.net.2"}  # fmt: skip


def prior(config: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that the config of a ``PriorTransformer`` stands for.

    Raises:
        ConfigError: a field that is not supported.
    """
    flags = Flags({k: v for k, v in config.items() if not k.startswith("_")}, "the config of PriorTransformer")
    heads, head = int(flags.get("num_attention_heads", 32)), int(flags.get("attention_head_dim", 64))
    dim = int(flags.get("embedding_dim", 768))
    flags.only("additional_embeddings", 4)
    flags.only("time_embed_act_fn", "silu")
    flags.only("norm_in_type", None)
    flags.only("embedding_proj_norm_type", None)
    flags.only("encoder_hid_proj_type", "linear")
    flags.only("added_emb_type", "prd")
    flags.only("time_embed_dim", None, heads * head)
    flags.only("embedding_proj_dim", None, dim)
    flags.only("clip_embed_dim", None, dim)
    overrides = {
        "network": "_prior",
        "network.in_channels": dim,
        "network.width": heads * head,
        "network.heads": heads,
        "network.depth": int(flags.get("num_layers", 20)),
        "network.length": int(flags.get("num_embeddings", 77)),
        "network.dropout": float(flags.get("dropout", 0.0)),
    }
    flags.finish()
    return overrides


def prior_links(network: nn.Module) -> Iterator[Link]:
    """The links of every tensor of a :class:`diffusion.network.prior.PriorTransformer`."""
    net: Any = network
    outer = {"linear1": "time_embedding.linear_1", "linear2": "time_embedding.linear_2", "stem": "proj_in",
             "vector": "embedding_proj", "tokens": "encoder_hidden_states_proj", "norm": "norm_out",
             "head": "proj_to_clip_embeddings"}  # fmt: skip
    for ours, theirs in outer.items():
        yield from both(ours, theirs)
    yield Link(f"{NETWORK}query", ("prd_embedding",))
    yield Link(f"{NETWORK}positions", ("positional_embedding",))
    for i in range(len(net.stack)):
        mine, name = f"stack.{i}", f"transformer_blocks.{i}"
        for kind in ("weight", "bias"):
            maps = tuple(f"{name}.attn1.to_{x}.{kind}" for x in "qkv")
            yield Link(f"{NETWORK}{mine}.attention.qkv.{kind}", maps, JOINED)
        for ours, theirs in BLOCK.items():
            yield from both(f"{mine}.{ours}", f"{name}.{theirs}")


def statistics(tensors: Mapping[str, Tensor]) -> Part:
    """Mean and standard deviation of the embeddings that a prior was trained on."""

    def write(target: Path) -> None:
        from safetensors.torch import save_file

        own = {name: tensors[f"clip_{name}"].flatten().float().contiguous() for name in ("mean", "std")}
        save_file(own, target / "statistics.safetensors")

    return Part(write)
