"""Autoencoders of latent diffusion's code as folders of diffusers, whose classes compute the same under other names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.errors import ConfigError
from diffusion.files import write_atomic
from diffusion.pretrained.base import Part, refuse
from diffusion.pretrained.diffusers_folder import WEIGHTS
from diffusion.pretrained.flags import Flags

CLASSES = {"AutoencoderKL": "AutoencoderKL", "AutoencoderKLInferenceWrapper": "AutoencoderKL",
           "VQModelInterface": "VQModel"}  # fmt: skip
"""Class of latent diffusion's code -> that of diffusers."""
RENAMED = [
    (r"\.(down|up)\.(\d+)\.block\.", r".\1_blocks.\2.resnets."),
    (r"\.(down|up)\.(\d+)\.attn\.", r".\1_blocks.\2.attentions."),
    (r"\.(down|up)\.(\d+)\.(down|up)sample\.", r".\1_blocks.\2.\3samplers.0."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"coder\.norm_out\.", "coder.conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
]
TRAINING = ("loss.", "model_ema.", "logvar", "colorize")
"""What the names of tensors begin with that no image needs."""


def autoencoder_part(
    target: str, params: Mapping[str, Any], tensors: Mapping[str, Tensor], scale: float
) -> tuple[Part, dict[str, Any]]:
    """The folder of a first stage, and its config in diffusers' terms.

    target: its class. params: the arguments of its constructor. scale: of the latents.

    Raises:
        ConfigError: a class or an argument that is not supported.
    """
    kind = CLASSES.get(target.rpartition(".")[2])
    if kind is None:
        raise ConfigError(f"the first stage {target} is not supported; {' and '.join(CLASSES)} are")
    config = {"_class_name": kind, "scaling_factor": scale, **_config(kind, Flags(params, "first_stage_config"))}
    levels = len(config["block_out_channels"])
    kept = {_name(k, levels): v for k, v in tensors.items() if not k.startswith(TRAINING)}
    kept = {k: v.flatten(1) if "attentions" in k and v.ndim == 4 else v for k, v in kept.items()}

    def write(folder: Path) -> None:
        import diffusers
        from safetensors.torch import save_file

        with torch.device("meta"):
            due = {k: v.shape for k, v in getattr(diffusers, kind).from_config(config).state_dict().items()}
        where = "the first stage of the file"
        refuse(where, "is missing", sorted(due.keys() - kept.keys()))
        refuse(where, "has no place in its autoencoder", sorted(kept.keys() - due.keys()))
        refuse(where, "has another shape than its config says", [k for k in due if kept[k].shape != due[k]])
        save_file({k: v.float().contiguous() for k, v in kept.items()}, folder / WEIGHTS[0], {"format": "pt"})
        write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")

    return Part(write), config


def _config(kind: str, flags: Flags) -> dict[str, Any]:
    own = Flags(flags.need("ddconfig"), "ddconfig")
    flags.ignore("lossconfig", "monitor", "ckpt_path", "ignore_keys", "image_key", "colorize_nlabels", "use_ema",
                 "batch_resize_range", "scheduler_config", "lr_g_factor")  # fmt: skip
    flags.only("remap", None)
    flags.only("sane_index_shape", False)
    width, multiples = int(own.need("ch")), [int(multiple) for multiple in own.need("ch_mult")]
    size, attends = int(own.need("resolution")), own.get("attn_resolutions", [])
    z, embed = int(own.need("z_channels")), int(flags.need("embed_dim"))
    own.only("double_z", kind == "AutoencoderKL")
    own.only("attn_type", "vanilla", "vanilla-xformers")
    own.only("resamp_with_conv", True)
    own.only("tanh_out", False)
    own.only("give_pre_end", False)
    own.only("use_linear_attn", False)
    own.ignore("dropout")
    if kind == "AutoencoderKL" and embed != z:
        raise ConfigError(
            f"the first stage has embed_dim={embed} and z_channels={z}, and only equal ones are supported"
        )
    attended = ["Attn" * (size // 2**level in attends) for level in range(len(multiples))]
    config = {
        "in_channels": int(own.need("in_channels")),
        "out_channels": int(own.need("out_ch")),
        "block_out_channels": [width * multiple for multiple in multiples],
        "layers_per_block": int(own.need("num_res_blocks")),
        "down_block_types": [f"{attention}DownEncoderBlock2D" for attention in attended],
        "up_block_types": [f"{attention}UpDecoderBlock2D" for attention in reversed(attended)],
        "latent_channels": z,
        "norm_num_groups": 32,
        "sample_size": size,
    }
    if kind == "VQModel":
        config |= {"num_vq_embeddings": int(flags.need("n_embed")), "vq_embed_dim": embed}
    own.finish()
    flags.finish()
    return config


def _name(name: str, levels: int) -> str:
    """diffusers' name; its way up is counted from the smallest level, latent diffusion's from the largest."""
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{levels - 1 - int(match[1])}", name)
