"""diffusers' ``UNet2DConditionModel``, the U-Net of Stable Diffusion: its config as overrides, its names both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from diffusion.errors import ConfigError
from diffusion.network.embedding import COMPONENTS
from diffusion.pretrained.base import NETWORK, Link
from diffusion.pretrained.diffusers_unet import unet2d_links
from diffusion.pretrained.flags import Flags
from diffusion.pretrained.openai_unet import both
from diffusion.pretrained.transforms import CONVOLVED, MATRIX

Links = Callable[[nn.Module, Mapping[str, Tensor]], Iterator[Link]]
SDXL = ("size", "crop", "target_size")
"""Numbers of its base model; those of the refiner are ``REFINER``."""
REFINER = ("size", "crop", "score")
DOWN = {"DownBlock2D": False, "CrossAttnDownBlock2D": True}
UP = {"UpBlock2D": False, "CrossAttnUpBlock2D": True}
USUAL = {
    "act_fn": ("silu", "swish"), "attention_type": ("default",), "center_input_sample": (False,),
    "class_embed_type": (None,), "class_embeddings_concat": (False,), "conv_in_kernel": (3,), "conv_out_kernel": (3,),
    "cross_attention_norm": (None,), "dual_cross_attention": (False,), "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,), "mid_block_only_cross_attention": (None,), "mid_block_scale_factor": (1, 1.0),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",), "num_class_embeds": (None,), "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1, 1.0), "resnet_skip_time_act": (False,), "time_cond_proj_dim": (None,),
    "resnet_time_scale_shift": ("default", "scale_shift"), "reverse_transformer_layers_per_block": (None,),
    "time_embedding_act_fn": (None,), "time_embedding_type": ("positional",), "timestep_post_act": (None,),
    "downsample_padding": (0, 1), "addition_embed_type": (None, "text_time"),
}  # fmt: skip
"""What is supported of fields that few models change."""


def read_unet_condition(
    config: Mapping[str, Any], numbers: Sequence[str] = SDXL, fills: bool = False
) -> tuple[dict[str, Any], Links]:
    """The overrides that a config stands for, the sizes of latents as ``data.channels`` and ``data.resolution``; and
    the links of a network that is built with them, both ways.

    fills: it is given a mask and latents beside those that it denoises, in this order.

    The pooled text of SDXL is ``Cond.vector``, its time ids are ``Cond.numbers`` of the names ``numbers``.

    Raises:
        ConfigError: a field that is not supported.
    """
    flags = Flags({k: v for k, v in config.items() if not k.startswith("_")}, "the config of UNet2DConditionModel")
    for key, values in USUAL.items():
        flags.only(key, *values)
    flags.ignore("upcast_attention", "addition_embed_type_num_heads")  # precision; of another embedding
    widths = [int(width) for width in flags.need("block_out_channels")]
    levels, size = len(widths), flags.get("sample_size", 64)
    size = int(size[0] if isinstance(size, list | tuple) else size)
    attends = _levels(list(flags.need("down_block_types")), list(flags.need("up_block_types")), levels)
    heads = flags.get("attention_head_dim", 8)  # a number of heads, in spite of its name
    heads = flags.get("num_attention_heads", heads)
    channels = int(flags.get("out_channels", 4))
    flags.only("in_channels", 2 * channels + 1 if fills else channels)
    flags.only("time_embedding_dim", None, 4 * widths[0])
    linear = bool(flags.get("use_linear_projection", False))
    overrides = {
        "data.channels": channels,
        "data.resolution": size,
        "network": "_unet",
        "network.channels": widths[0],
        "network.channel_mult": [w // widths[0] if w % widths[0] == 0 else w / widths[0] for w in widths],
        "network.num_res_blocks": _one(flags, "layers_per_block", 2),
        "network.attention": [size // 2**level for level, attended in enumerate(attends) if attended],
        "network.heads": heads if isinstance(heads, int) else [int(count) for count in heads],
        "network.transformer_depth": _depths(flags, levels),
        "network.token_dim": _one(flags, "cross_attention_dim", 1280),
        "network.dropout": float(flags.get("dropout", 0.0)),
        "network.scale_shift_norm": flags.get("resnet_time_scale_shift", "default") == "scale_shift",
        "network.variant": "adm",
        "network.norm_groups": int(flags.get("norm_num_groups", 32)),
        "network.norm_eps": float(flags.get("norm_eps", 1e-5)),
        "network.sine_first": not flags.get("flip_sin_to_cos", True),
        "network.frequency_shift": int(flags.get("freq_shift", 0)),
        "network.centred": int(flags.get("downsample_padding", 1)) == 1,
        **_added(flags, numbers),
        "parameterization.learned_variance": False,
    }
    flags.finish()
    return overrides, lambda network, tensors: unet_condition_links(network, tensors, linear)


def unet_condition_links(network: nn.Module, tensors: Mapping[str, Tensor], linear: bool) -> Iterator[Link]:
    """The links of every tensor.

    linear: the outer maps of transformers are written as matrices (Stable Diffusion 2, SDXL), not as 1x1 convolutions.
    """
    for link in unet2d_links(network, tensors):
        yield link._replace(how=MATRIX) if linear and link.how is CONVOLVED else link
    net: Any = network
    if net.embedding.joint is not None:
        yield from both("embedding.joint.0", "add_embedding.linear_1")
        yield from both("embedding.joint.2", "add_embedding.linear_2")
    if net.embedding.guidance is not None:
        yield Link(f"{NETWORK}embedding.guidance.weight", ("time_embedding.cond_proj.weight",))


def _levels(down: list[str], up: list[str], count: int) -> list[bool]:
    """Which levels have transformers."""
    unknown = [name for names, known in ((down, DOWN), (up, UP)) for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"the config of UNet2DConditionModel has blocks of the type {unknown[0]}, which is not supported here"
        )
    attends = [DOWN[name] for name in down]
    if attends != [UP[name] for name in reversed(up)] or len(down) != count:
        raise ConfigError(
            f"the config of UNet2DConditionModel has the blocks {', '.join([*down, *up])} on {count} levels: a way up "
            "that does not mirror the way down is not supported here"
        )
    return attends


def _one(flags: Flags, key: str, usual: int) -> int:
    """A number that may be given once for each level, the same for all."""
    value = flags.get(key, usual)
    values = set(value) if isinstance(value, list | tuple) else {value}
    if len(values) > 1:
        raise ConfigError(f"{flags.where} has {key}={value}, and only one number for all levels is supported here")
    return int(values.pop())


def _depths(flags: Flags, levels: int) -> int | list[int]:
    depth = flags.get("transformer_layers_per_block", 1)
    if isinstance(depth, list | tuple):
        if not all(isinstance(each, int) for each in depth) or len(depth) != levels:
            raise ConfigError(
                f"{flags.where} has transformer_layers_per_block={depth}, and only one number for each of {levels} "
                "levels is supported here"
            )
        return [int(each) for each in depth]
    return int(depth)


def _added(flags: Flags, numbers: Sequence[str]) -> dict[str, Any]:
    """SDXL's embedding of the pooled text and of sizes."""
    features, joint = (
        flags.get(key, 0) for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
    )
    if flags.get("addition_embed_type", None) is None:
        return {}
    vector = int(joint) - int(features) * sum(COMPONENTS.get(name, 1) for name in numbers)
    if not features or vector < 0:
        raise ConfigError(
            f"{flags.where} has projection_class_embeddings_input_dim={joint}, which has no room for {features} "
            f"sinusoids of each component of {', '.join(numbers)}"
        )
    return {"network.cond_dim": vector, "network.numbers": list(numbers), "network.joint_features": int(features)}
