"""Names of tensors of diffusers and transformers in the files of CompVis's and Stability AI's codes."""

from __future__ import annotations

import re

import torch
from torch import Tensor


def first_stage_name(name: str, levels: int) -> str:
    """The name in latent diffusion of a tensor of an autoencoder of diffusers."""
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", name).replace("down_blocks", "down")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace(".resnets.", ".block.")
    name = name.replace(".attentions.", ".attn.").replace("samplers.0.", "sample.").replace("conv_norm_out", "norm_out")
    name = name.replace("group_norm", "norm").replace("to_out.0", "proj_out").replace("conv_shortcut", "nin_shortcut")
    return re.sub(r"to_([qkv])", r"\1", name)


def first_stage(state: dict[str, Tensor], levels: int) -> dict[str, Tensor]:
    """An autoencoder of diffusers as latent diffusion has it: its attention's maps are convolutions."""
    named = {first_stage_name(name, levels): value for name, value in state.items()}
    return {k: v[..., None, None] if ".attn_1." in k and v.ndim == 2 else v for k, v in named.items()}


def open_clip(tower: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text tower of transformers as open_clip has it, queries, keys and values as one matrix."""
    layers = "text_model.encoder.layers."
    found = {
        "token_embedding.weight": tower["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": tower["text_model.embeddings.position_embedding.weight"],
        "text_projection": tower["text_projection.weight"].T.contiguous(),
        "logit_scale": torch.tensor(4.6),
    }
    for name, value in tower.items():
        name = name.replace("text_model.final_layer_norm", "ln_final").replace(layers, "transformer.resblocks.")
        name = name.replace("layer_norm", "ln_").replace("self_attn.out_proj", "attn.out_proj")
        name = name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
        if name.startswith(("ln_final", "transformer.")) and "self_attn" not in name:
            found[name] = value
        elif match := re.fullmatch(r"transformer\.resblocks\.(\d+)\.self_attn\.q_proj\.(\w+)", name):
            n, kind = match.groups()
            maps = [tower[f"{layers}{n}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            found[f"transformer.resblocks.{n}.attn.in_proj_{kind}"] = torch.cat(maps)
    return found
