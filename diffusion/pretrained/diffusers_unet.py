"""diffusers' ``UNet2DModel``: its config as overrides, its names for the tensors of :class:`UNet`, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.network.blocks import AttentionBlock, Downsample, ResBlock, Upsample
from diffusion.network.transformer import SpatialTransformer
from diffusion.pretrained.base import NETWORK, Link
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.openai_unet import both, transformer_links
from diffusion.pretrained.transforms import JOINED, MATRIX, PAIR, WITH_NULL

UNSTATED = 32
"""The size of images where the config does not say it."""
RES = {"norm1": "norm1", "conv1": "conv1", "emb": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
       "skip": "conv_shortcut"}  # fmt: skip
ATTENTION = {"new": ("to_q", "to_k", "to_v", "to_out.0"), "old": ("query", "key", "value", "proj_attn")}
"""Names of its maps, in the folders of today and in the first published ones."""
DOWN = {"DownBlock2D": (False, False), "AttnDownBlock2D": (True, None), "ResnetDownsampleBlock2D": (False, True)}
"""(has attention, resamples in a residual block); ``None`` where downsample_type says it."""
UP = {"UpBlock2D": (False, False), "AttnUpBlock2D": (True, None), "ResnetUpsampleBlock2D": (False, True)}


def unet2d(config: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides that the config of a ``UNet2DModel`` stands for.

    Raises:
        ConfigError: a field that is not supported.
    """
    flags = Flags({k: v for k, v in config.items() if not k.startswith("_")}, "the config of UNet2DModel")
    widths = [int(width) for width in flags.need("block_out_channels")]
    size = side(flags)
    down, up = list(flags.need("down_block_types")), list(flags.need("up_block_types"))
    flags.only("act_fn", "silu", "swish")
    flags.only("time_embedding_type", "positional")
    flags.only("center_input_sample", False)
    flags.only("class_embed_type", None)
    flags.only("mid_block_scale_factor", 1, 1.0)
    flags.only("mid_block_type", "UNetMidBlock2D")
    flags.only("time_embedding_dim", None, 4 * widths[0])
    flags.only("downsample_type", "conv", "resnet")
    flags.only("upsample_type", "conv", "resnet")
    flags.only("resnet_time_scale_shift", "default", "scale_shift")
    flags.ignore("num_train_timesteps")  # of embeddings that are tables
    inside, groups = flags.get("downsample_type", "conv") == "resnet", int(flags.get("norm_num_groups", 32))
    flags.only("upsample_type", "resnet" if inside else "conv")
    shifts, middle = (
        flags.get("resnet_time_scale_shift", "default") == "scale_shift",
        flags.get("attn_norm_num_groups", None),
    )
    attends, resnet = _levels(down, up, inside, len(widths))
    head = config.get("attention_head_dim", 8)  # null is one head
    flags.ignore("attention_head_dim")
    classes = int(flags.get("num_class_embeds", 0))
    channels, out = int(flags.get("in_channels", 3)), int(flags.get("out_channels", 3))
    overrides = {
        "data.channels": channels,
        "data.resolution": size,
        "data.num_classes": classes,
        "network": "_unet",
        "network.channels": widths[0],
        "network.channel_mult": [multiple(width, widths[0]) for width in widths],
        "network.num_res_blocks": int(flags.get("layers_per_block", 2)),
        "network.attention": [size // 2**level for level, attended in enumerate(attends) if attended],
        "network.heads": 1,
        "network.head_channels": None if head is None else int(head),
        "network.dropout": float(flags.get("dropout", 0.0)),
        "network.scale_shift_norm": shifts,
        "network.resblock_updown": resnet,
        "network.variant": "ddpm",
        "network.norm_groups": groups,
        "network.middle_groups": int(middle or 0) if shifts or middle is not None else None,
        "network.middle_attention": bool(flags.get("add_attention", True)),
        "network.norm_eps": float(flags.get("norm_eps", 1e-5)),
        "network.sine_first": not flags.get("flip_sin_to_cos", True),
        "network.frequency_shift": int(flags.get("freq_shift", 0)),
        "network.centred": int(flags.get("downsample_padding", 1)) == 1,
        "parameterization.learned_variance": out == 2 * channels,
    }
    if classes:
        overrides |= {
            "conditioner": "label",
            "conditioner.num_classes": classes,
            "conditioner.dim": 4 * widths[0],
            "conditioner.drop": 0.0,
        }
    flags.only("out_channels", channels, 2 * channels)
    flags.finish()
    return overrides


def side(flags: Flags) -> int:
    """Of the images, in pixels.

    Raises:
        ConfigError: they are not square.
    """
    size = flags.get("sample_size", UNSTATED)
    sides = {int(number) for number in (size if isinstance(size, list | tuple) else [size])}
    if len(sides) > 1:
        raise ConfigError(f"{flags.where} has sample_size={list(size)}, and only squares are supported here")
    return sides.pop()


def multiple(width: int, base: int) -> float:
    """A level's width in those of the first; a whole number where it is one."""
    return width // base if width % base == 0 else width / base


def _levels(down: list[str], up: list[str], inside: bool, count: int) -> tuple[list[bool], bool]:
    """Which levels have attention, and whether all resample in residual blocks."""
    unknown = [name for names, known in ((down, DOWN), (up, UP)) for name in names if name not in known]
    if unknown:
        raise ConfigError(f"the config of UNet2DModel has blocks of the type {unknown[0]}, which is not supported here")
    attends = [DOWN[name][0] for name in down]
    between = [DOWN[name][1] for name in down[:-1]] + [UP[name][1] for name in up[:-1]]
    kinds = {inside if kind is None else kind for kind in between}
    if attends != [UP[name][0] for name in reversed(up)] or len(kinds) > 1 or len(down) != count:
        raise ConfigError(
            f"the config of UNet2DModel has the blocks {', '.join([*down, *up])}: a way up that does not mirror the "
            "way down, or resampling of both kinds, is not supported here"
        )
    return attends, kinds.pop() if kinds else False


def unet2d_links(network: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[Link]:
    """The links of every tensor, and of the classes' embedding where the file has one.

    tensors: of the file, whose names tell the age of its attention; none for a folder that is to be written.
    """
    net: Any = network
    names = attention_names(tensors)
    yield from both("embedding.linear1", "time_embedding.linear_1")
    yield from both("embedding.linear2", "time_embedding.linear_2")
    yield from both("stem", "conv_in")
    yield from walked(net.down, "down", "down_blocks", names)
    yield from _layers(net.middle, "middle", "mid_block", 0, names)
    yield from walked(net.up, "up", "up_blocks", names)
    yield from both("norm", "conv_norm_out")
    yield from both("head", "conv_out")
    if "class_embedding.weight" in tensors:
        yield Link("conditioner.embedding.weight", ("class_embedding.weight",), WITH_NULL)


def attention_names(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Of its maps in this file."""
    return ATTENTION["old" if any(name.endswith(".query.weight") for name in tensors) else "new"]


def walked(stages: Any, ours: str, theirs: str, names: tuple[str, ...]) -> Iterator[Link]:
    """The links of the stages of one way; one that changes the size is the last of its level."""
    level = seen = 0
    for i, stage in enumerate(stages):
        yield from _layers(stage, f"{ours}.{i}", f"{theirs}.{level}", seen, names)
        seen += 1
        if isinstance(stage[-1], Downsample | Upsample) or getattr(stage[-1], "resample", None) is not None:
            level, seen = level + 1, 0


def _layers(stage: Any, ours: str, theirs: str, seen: int, names: tuple[str, ...]) -> Iterator[Link]:
    blocks = 0
    for j, layer in enumerate(stage):
        mine = f"{ours}.{j}"
        if isinstance(layer, ResBlock) and layer.resample is None:
            yield from res(layer, mine, f"{theirs}.resnets.{seen + blocks}")
            blocks += 1
        elif isinstance(layer, ResBlock):
            yield from res(layer, mine, f"{theirs}.{layer.resample}samplers.0")
        elif isinstance(layer, AttentionBlock):
            yield from attention(layer, mine, f"{theirs}.attentions.{seen + blocks - 1}", names)
        elif isinstance(layer, SpatialTransformer):
            yield from transformer_links(layer, mine, f"{theirs}.attentions.{seen + blocks - 1}")
        elif isinstance(layer, Downsample | Upsample):
            way = "down" if isinstance(layer, Downsample) else "up"
            yield from both(f"{mine}.conv", f"{theirs}.{way}samplers.0.conv")


def res(layer: ResBlock, ours: str, theirs: str) -> Iterator[Link]:
    """The links of a residual block."""
    for mine, name in RES.items():
        if not isinstance(getattr(layer, mine), nn.Identity):
            yield from both(f"{ours}.{mine}", f"{theirs}.{name}")


def attention(layer: AttentionBlock, ours: str, theirs: str, names: tuple[str, ...]) -> Iterator[Link]:
    """The links of a block of attention."""
    if not isinstance(layer.norm, nn.Identity):
        yield from both(f"{ours}.norm", f"{theirs}.group_norm")
    for kind in ("weight", "bias"):
        yield Link(f"{NETWORK}{ours}.attention.qkv.{kind}", tuple(f"{theirs}.{n}.{kind}" for n in names[:3]), JOINED)
        if layer.joint is not None:
            pair = (f"{theirs}.add_k_proj.{kind}", f"{theirs}.add_v_proj.{kind}")
            yield Link(f"{NETWORK}{ours}.joint.{kind}", pair, PAIR)
    yield from both(f"{ours}.attention.out", f"{theirs}.{names[3]}", MATRIX)


def conventions(own: Mapping[str, Any]) -> dict[str, Any]:
    """What ``network.variant`` decides, or the settings of its own: norm_eps, sine_first, frequency_shift, centred."""
    ddpm = own["variant"] == "ddpm"
    usual = {"norm_eps": 1e-6 if ddpm else 1e-5, "sine_first": ddpm, "frequency_shift": int(ddpm), "centred": not ddpm}
    return {key: value if own[key] is None else own[key] for key, value in usual.items()}


def unet2d_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """``config.json`` of a U-Net.

    Raises:
        ConfigError: a network that diffusers' class cannot hold.
    """
    own = config["network"]
    groups = own["norm_groups"]
    widths = [int(own["channels"] * multiple) for multiple in own["channel_mult"]]
    natural = {min(32, max(width // 4, 1)) for width in widths}
    unsupported = {
        "tokens of a condition": own["token_dim"],
        "an image as condition": own["image_channels"],
        "joint attention": own.get("joint_attention"),
        "numbers": own["numbers"],
        "levels with norms of several numbers of groups (set network.norm_groups)": groups is None and len(natural) > 1,
        "a first convolution of another width": own["stem_channels"] not in (None, widths[0]),
        "several heads of a fixed number": own["head_channels"] is None and own["heads"] > 1 and len(set(widths)) > 1,
    }
    for what, there in unsupported.items():
        if there:
            raise ConfigError(f"diffusers' UNet2DModel has no {what}; use format=safetensors")
    sizes = [own["resolution"] // 2**level for level in range(len(widths))]
    attends, inside = [size in own["attention"] for size in sizes], own["resblock_updown"]
    plain = "Resnet{}sampleBlock2D" if inside else "{}Block2D"
    down = ["AttnDownBlock2D" if attended else plain.format("Down") for attended in attends]
    up = ["AttnUpBlock2D" if attended else plain.format("Up") for attended in reversed(attends)]
    head = (
        own["head_channels"]
        if own["head_channels"] is not None
        else None
        if own["heads"] == 1
        else widths[0] // own["heads"]
    )
    how = conventions(own)
    middle = own["middle_groups"]
    number = natural.pop() if groups is None else groups
    classes = state.get("conditioner.embedding.weight")
    trained = 0 if classes is None else len(classes) - (config["conditioner"].get("drop", 0.0) == 0)
    return {
        "_class_name": "UNet2DModel",
        "sample_size": own["resolution"],
        "in_channels": own["in_channels"],
        "out_channels": own["in_channels"] * (2 if own["learned_variance"] else 1),
        "block_out_channels": widths,
        "layers_per_block": own["num_res_blocks"],
        "down_block_types": down,
        "up_block_types": up,
        "downsample_type": "resnet" if inside else "conv",
        "upsample_type": "resnet" if inside else "conv",
        "downsample_padding": int(how["centred"]),
        "resnet_time_scale_shift": "scale_shift" if own["scale_shift_norm"] else "default",
        "add_attention": own["middle_attention"],
        "attention_head_dim": head,
        "attn_norm_num_groups": (number if middle is None else middle or None) if own["scale_shift_norm"] else middle,
        "norm_num_groups": number,
        "norm_eps": how["norm_eps"],
        "flip_sin_to_cos": not how["sine_first"],
        "freq_shift": how["frequency_shift"],
        "dropout": own["dropout"],
        "act_fn": "silu",
        "num_class_embeds": trained or None,
    }
