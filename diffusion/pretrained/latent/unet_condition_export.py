"""Our U-Net with latent diffusion's transformers as diffusers' ``UNet2DConditionModel``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion.errors import ConfigError
from diffusion.pretrained.diffusers_unet import conventions
from diffusion.pretrained.latent.unet_condition import REFINER, SDXL


def is_linear(own: Mapping[str, Any]) -> bool:
    """The outer maps of transformers are written as matrices, as in Stable Diffusion 2 and SDXL, whose heads have one
    width; Stable Diffusion 1 has one number of heads, and 1x1 convolutions, which compute the same."""
    return own["head_channels"] is not None or not isinstance(own["heads"], int)


def unet_condition_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config.json``.

    config: the run's, resolved.

    Raises:
        ConfigError: a network that diffusers' class cannot hold.
    """
    own = config["network"]
    widths, groups = [int(own["channels"] * multiple) for multiple in own["channel_mult"]], own["norm_groups"]
    natural = {min(32, max(width // 4, 1)) for width in widths} if groups is None else {int(groups)}
    joint, numbers, guided = int(own["joint_features"]), tuple(own["numbers"]), int(own.get("guidance_features", 0))
    told = numbers == ("guidance",) and guided > 0
    refused = {
        "no transformers without tokens of a condition": not own["token_dim"],
        "no image as condition": own["image_channels"],
        "no learned variance": own["learned_variance"],
        "no resampling in residual blocks": own["resblock_updown"],
        "no middle without attention, or with a norm of its own": own["middle_groups"] is not None
        or not own["middle_attention"],
        "norms of one number of groups (set network.norm_groups)": len(natural) > 1,
        "a first convolution as wide as the first level": own["stem_channels"] not in (None, widths[0]),
        "a guidance scale that joins the sinusoids of time, as in LCM (set network.guidance_features)": numbers
        == ("guidance",)
        and not guided,
        f"a vector and numbers as SDXL's alone, joined, and those are {', '.join(SDXL)} or {', '.join(REFINER)}": (
            bool(own["cond_dim"] or (numbers and not told)) if not joint else numbers not in (SDXL, REFINER)
        ),
    }
    for what, there in refused.items():
        if there:
            raise ConfigError(f"diffusers' UNet2DConditionModel has {what}; use format=safetensors")
    sizes = [own["resolution"] // 2**level for level in range(len(widths))]
    attends = [size in own["attention"] for size in sizes]
    heads, depth = own["heads"], own["transformer_depth"]
    if own["head_channels"] is not None:
        heads = [width // own["head_channels"] for width in widths]
    how = conventions(own)
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": own["resolution"],
        "in_channels": own["in_channels"],
        "out_channels": own["in_channels"],
        "block_out_channels": widths,
        "layers_per_block": own["num_res_blocks"],
        "down_block_types": ["CrossAttnDownBlock2D" if attended else "DownBlock2D" for attended in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attended else "UpBlock2D" for attended in reversed(attends)],
        "attention_head_dim": heads,  # a number of heads, in spite of its name
        "transformer_layers_per_block": depth if isinstance(depth, int) else [max(each, 1) for each in depth],
        "cross_attention_dim": own["token_dim"],
        "use_linear_projection": is_linear(own),
        "downsample_padding": int(how["centred"]),
        "resnet_time_scale_shift": "scale_shift" if own["scale_shift_norm"] else "default",
        "norm_num_groups": natural.pop(),
        "norm_eps": how["norm_eps"],
        "flip_sin_to_cos": not how["sine_first"],
        "freq_shift": how["frequency_shift"],
        "dropout": own["dropout"],
        "act_fn": "silu",
        **({"time_cond_proj_dim": guided} if told else {}),
        **(
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": joint,
                "projection_class_embeddings_input_dim": own["cond_dim"] + joint * (6 if numbers == SDXL else 5),
            }
            if joint
            else {}
        ),
    }
