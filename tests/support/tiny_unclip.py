"""A pipeline of unCLIP's models with random weights, as diffusers writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from published import unpacked
from torch import nn

DOWN, MIDDLE, UP = "SimpleCrossAttnDownBlock2D", "UNetMidBlock2DSimpleCrossAttn", "SimpleCrossAttnUpBlock2D"
PLAIN = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
WIDTH, CONTEXT, CHANNELS = 16, 24, (16, 32)
"""Of CLIP's embeddings, of the decoder's tokens, of the U-Nets' levels."""


def random(model: nn.Module, seed: int, scale: float = 0.15) -> nn.Module:
    """Every weight random, so that everything counts in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * scale + ("norm" in name and p.ndim == 1))
    return model.eval()


def unclip_pipeline(folder: Path) -> Any:
    """The pipeline; what it writes is a folder for ``format=diffusers``."""
    import transformers
    from diffusers import PriorTransformer, UnCLIPPipeline, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel

    tokenizer = transformers.CLIPTokenizer.from_pretrained(unpacked("diffusers_sd15", folder) / "tokenizer")
    config = transformers.CLIPTextConfig(
        vocab_size=528, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=WIDTH, bos_token_id=526, eos_token_id=527, pad_token_id=527,
    )  # fmt: skip
    encoder = transformers.CLIPTextModelWithProjection(config)
    prior = random(PriorTransformer(2, 8, 2, embedding_dim=WIDTH), 1)
    with torch.no_grad():
        prior.clip_mean.normal_(generator=torch.Generator().manual_seed(0))
        prior.clip_std.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    common = {"block_out_channels": CHANNELS, "layers_per_block": 1, "norm_num_groups": 4,
              "resnet_time_scale_shift": "scale_shift"}  # fmt: skip
    decoder = UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=6, down_block_types=(PLAIN[0], DOWN), mid_block_type=MIDDLE,
        up_block_types=(UP, PLAIN[1]), cross_attention_dim=CONTEXT, attention_head_dim=8, class_embed_type="identity",
        **common,
    )  # fmt: skip
    projection = UnCLIPTextProjModel(
        clip_embeddings_dim=WIDTH, time_embed_dim=4 * CHANNELS[0], cross_attention_dim=CONTEXT
    )
    large = {
        "sample_size": 16, "in_channels": 6, "out_channels": 3, "down_block_types": (PLAIN[0],) * 2,
        "up_block_types": (PLAIN[1],) * 2, "add_attention": False, "downsample_type": "resnet",
        "upsample_type": "resnet", **common,
    }  # fmt: skip
    small = {"variance_type": "fixed_small_log"}
    pipe = UnCLIPPipeline(
        prior=prior,
        decoder=random(decoder, 2),
        text_proj=random(projection, 3),
        text_encoder=random(encoder, 4),
        tokenizer=tokenizer,
        super_res_first=random(UNet2DModel(**large), 5),
        super_res_last=random(UNet2DModel(**large), 6),
        prior_scheduler=UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0, **small),
        decoder_scheduler=UnCLIPScheduler(variance_type="learned_range"),
        super_res_scheduler=UnCLIPScheduler(**small),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
