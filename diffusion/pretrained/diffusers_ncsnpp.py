"""NCSN++ of images of 256 pixels and more as a ``UNet2DModel`` of diffusers: its config as overrides, its names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.network.song_blocks import SongAttentionBlock
from diffusion.pretrained.base import NETWORK, Link
from diffusion.pretrained.diffusers_unet import attention, attention_names, multiple, res, side
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.openai_unet import both
from diffusion.pretrained.transforms import negated

DOWN = {"SkipDownBlock2D": False, "AttnSkipDownBlock2D": True}
UP = {"SkipUpBlock2D": False, "AttnSkipUpBlock2D": True}
ATTENTION_GROUPS = 32
"""Of norms at attention there, whatever its width."""
UNSTATED = {"time_embedding_type": "positional", "mid_block_scale_factor": 1.0, "norm_num_groups": 32}
"""What the class there has where a config does not say it, of fields whose default differs from what is supported."""
DROPPED = {"time_proj.W": "the frequencies, which the file has a second time"}


def is_ncsnpp(config: Mapping[str, Any]) -> bool:
    """Is this config of a ``UNet2DModel`` one of blocks, or of an embedding, that NCSN++ alone has?"""
    blocks = [*config.get("down_block_types", ()), *config.get("up_block_types", ())]
    return config.get("time_embedding_type") == "fourier" or any(name in DOWN or name in UP for name in blocks)


def ncsnpp(config: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that the config stands for.

    The network there gives the score of images in [0, 1] and is trained in their units: its output times -sigma, which
    is the noise, is that of the network here, at x = 2 u - 1 for an image u.

    Raises:
        ConfigError: a field that is not supported.
    """
    flags = Flags({k: v for k, v in {**UNSTATED, **config}.items() if k[0] != "_"}, "the config of UNet2DModel")
    widths = [int(width) for width in flags.need("block_out_channels")]
    size, attends = side(flags), _levels(flags, len(widths))
    flags.only("time_embedding_type", "fourier")
    flags.only("act_fn", "silu", "swish")
    flags.only("in_channels", 3)  # the blocks there have it in their code
    flags.only("out_channels", 3)
    flags.only("mid_block_type", "UNetMidBlock2D")
    flags.only("add_attention", True)
    flags.only("resnet_time_scale_shift", "default")
    flags.only("class_embed_type", None)
    flags.only("num_class_embeds", None)
    flags.only("time_embedding_dim", None, 4 * widths[0])
    factor, root = flags.need("mid_block_scale_factor"), math.sqrt(2)  # published with twelve digits
    flags.only("mid_block_scale_factor", factor if math.isclose(factor, root, rel_tol=1e-6) else root)
    groups = flags.get("norm_num_groups", None)  # null: 32 or less
    flags.only("attn_norm_num_groups", None, groups)
    head = config.get("attention_head_dim", 8)  # null is one head
    flags.ignore("attention_head_dim", "freq_shift", "flip_sin_to_cos", "num_train_timesteps")  # of other embeddings
    flags.ignore("downsample_padding", "downsample_type", "upsample_type")  # of other blocks
    before = [width for width, attended in zip([*widths[1:], widths[-1]], attends, strict=True) if attended]
    if any(width < ATTENTION_GROUPS for width in before):
        raise ConfigError(
            f"{flags.where} has block_out_channels={widths}: attention above a level of less than {ATTENTION_GROUPS} "
            "channels has norms of other numbers of groups there, which is not supported here"
        )
    overrides = {
        "data.channels": 3,
        "data.resolution": size,
        "data.num_classes": 0,
        "network": "_song",
        "network.channels": widths[0],
        "network.channel_mult": [multiple(width, widths[0]) for width in widths],
        "network.num_res_blocks": int(flags.get("layers_per_block", 2)),
        "network.attention": [size // 2**level for level, attended in enumerate(attends) if attended],
        "network.dropout": float(flags.get("dropout", 0.0)),
        "network.taps": [1, 3, 3, 1],
        "network.fourier_scale": 16.0,
        "network.input_skip": True,
        "network.output_skip": True,
        "network.unit_input": not flags.get("center_input_sample", False),
        "network.head_channels": None if head is None else int(head),
        "network.norm_eps": float(flags.get("norm_eps", 1e-5)),
        "network.attention_groups": ATTENTION_GROUPS,
        "network.middle_groups": None if groups is None else int(groups),
        "parameterization.learned_variance": False,
    }
    flags.finish()
    return overrides


def _levels(flags: Flags, count: int) -> list[bool]:
    """Which levels have attention."""
    down, up = list(flags.need("down_block_types")), list(flags.need("up_block_types"))
    for key, names, known in (("down_block_types", down, DOWN), ("up_block_types", up, UP)):
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(
                f"{flags.where} has {unknown[0]} in {key}, and only {' and '.join(known)} are supported with Fourier "
                "features or with another of these"
            )
    attends = [DOWN[name] for name in down]
    if attends != [UP[name] for name in reversed(up)] or len(down) != count:
        raise ConfigError(
            f"{flags.where} has the blocks {', '.join([*down, *up])}: a way up that does not mirror the way down is "
            "not supported here"
        )
    return attends


def ncsnpp_links(network: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[Link]:
    """The links of every tensor. tensors: of the file, whose names tell the age of its attention."""
    net: Any = network
    names = attention_names(tensors)
    yield Link(f"{NETWORK}embedding.spectrum", ("time_proj.weight",))
    yield from both("embedding.linear1", "time_embedding.linear_1")
    yield from both("embedding.linear2", "time_embedding.linear_2")
    yield from both("stem", "conv_in")
    level = blocks = 0
    for i, stage in enumerate(net.down):
        if stage[0].resample is not None:
            yield from res(stage[0], f"down.{i}.0", f"down_blocks.{level}.resnet_down")
            yield from both(f"inputs.{i}.conv", f"down_blocks.{level}.skip_conv")
            level, blocks = level + 1, 0
            continue
        yield from _stage(stage, f"down.{i}", f"down_blocks.{level}", blocks, blocks, names)
        blocks += 1
    yield from _stage(net.middle[:2], "middle", "mid_block", 0, 0, names)
    yield from res(net.middle[2], "middle.2", "mid_block.resnets.1")
    level = blocks = 0
    for i, stage in enumerate(net.up):
        yield from _stage(stage, f"up.{i}", f"up_blocks.{level}", blocks, 0, names)
        blocks += 1
        if str(i) in net.outputs:
            yield from both(f"outputs.{i}.norm", f"up_blocks.{level}.skip_norm")
            yield from _opposite(f"outputs.{i}.conv", f"up_blocks.{level}.skip_conv")
            yield from res(net.doubles[str(i)][0], f"doubles.{i}.0", f"up_blocks.{level}.resnet_up")
            level, blocks = level + 1, 0
    yield from both("norm", "conv_norm_out")
    yield from _opposite("head", "conv_out")


def _stage(stage: Any, ours: str, theirs: str, block: int, attended: int, names: tuple[str, ...]) -> Iterator[Link]:
    """A residual block, and attention after it where there is some."""
    yield from res(stage[0], f"{ours}.0", f"{theirs}.resnets.{block}")
    if len(stage) > 1 and isinstance(stage[1], SongAttentionBlock):
        yield from attention(stage[1], f"{ours}.1", f"{theirs}.attentions.{attended}", names)


def _opposite(ours: str, theirs: str) -> Iterator[Link]:
    """A last layer: the noise points away from the score."""
    for kind in ("weight", "bias"):
        yield Link(f"{NETWORK}{ours}.{kind}", (f"{theirs}.{kind}",), negated())
