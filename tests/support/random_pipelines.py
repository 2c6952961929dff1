"""Whole pipelines of diffusers at miniature size, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from published import unpacked

EULER = {
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "interpolation_type": "linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "steps_offset": 1, "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}  # fmt: skip
"""What SDXL is published with."""


def random(model: Any, seed: int) -> Any:
    """The model with weights that leave nothing at zero, so that every tensor counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.15 + ("norm" in name and p.ndim == 1))
    return model.eval()


def tower(width: int, projection: int, seed: int, kind: str = "CLIPTextModelWithProjection", **more: Any) -> Any:
    import transformers

    config = transformers.CLIPTextConfig(**{
        "vocab_size": 528, "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 2, "projection_dim": projection, "bos_token_id": 526, "eos_token_id": 527,
        "pad_token_id": 527, **more,
    })  # fmt: skip
    return random(getattr(transformers, kind)(config), seed)


def tokenizer_of(folder: Path) -> Any:
    """A tokenizer of CLIP with few words."""
    import transformers

    return transformers.CLIPTokenizer.from_pretrained(unpacked("diffusers_sd15", folder) / "tokenizer")


def kl(scale: float, seed: int, **more: Any) -> Any:
    """An autoencoder of latents half as large as images."""
    import diffusers

    coder = diffusers.AutoencoderKL(**{
        "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2, "norm_num_groups": 4,
        "sample_size": 16, "up_block_types": ("UpDecoderBlock2D",) * 2, "latent_channels": 4, "scaling_factor": scale,
        **more,
    })  # fmt: skip
    return random(coder, seed)


def sdxl_unet(tokens: int, vector: int, numbers: int, seed: int, **more: Any) -> Any:
    """A U-Net of SDXL's kind on latents of 8 x 8, of two levels, the second with transformers of depth 2."""
    import diffusers

    unet = diffusers.UNet2DConditionModel(**{
        "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 2, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": tokens,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (2, 4),
        "use_linear_projection": True, "transformer_layers_per_block": (1, 2), "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": vector + 8 * numbers, **more,
    })  # fmt: skip
    return random(unet, seed)


Settings = Mapping[str, Any]
NONE: Settings = {}


def stable_diffusion(folder: Path, scheduler: Any, fills: bool = False) -> Any:
    """Stable Diffusion 1, on latents of 8 x 8; or its model for inpainting."""
    import diffusers

    kind = diffusers.StableDiffusionInpaintPipeline if fills else diffusers.StableDiffusionPipeline
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=9 if fills else 4,
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=2,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    pipeline = kind(
        unet=random(unet, 0), vae=kl(0.13, 1), tokenizer=tokenizer_of(folder),
        text_encoder=tower(16, 16, 2, "CLIPTextModel"), scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sdxl(folder: Path, unet: Settings = NONE, vae: Settings = NONE, clip: Settings = NONE) -> Any:
    """SDXL's base model; its towers have another padding each. Further arguments of its models."""
    import diffusers

    first, second = tokenizer_of(folder / "first"), tokenizer_of(folder / "second")
    second.pad_token = "!"
    pipeline = diffusers.StableDiffusionXLPipeline(
        unet=sdxl_unet(36, 10, 6, 0, **unet), vae=kl(0.13, 1, **vae), tokenizer=first, tokenizer_2=second,
        text_encoder=tower(16, 16, 2, "CLIPTextModel", **clip),
        text_encoder_2=tower(20, 10, 3, hidden_act="gelu", **clip),
        scheduler=diffusers.EulerDiscreteScheduler(**EULER), add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def refiner(folder: Path, unet: Settings = NONE, vae: Settings = NONE, clip: Settings = NONE) -> Any:
    """SDXL's refiner: one tower, and a score in the place of the target's size."""
    import diffusers

    tokenizer = tokenizer_of(folder)
    tokenizer.pad_token = "!"
    pipeline = diffusers.StableDiffusionXLImg2ImgPipeline(
        unet=sdxl_unet(20, 10, 5, 4, **unet), vae=kl(0.13, 5, **vae), tokenizer=None, tokenizer_2=tokenizer,
        text_encoder=None, text_encoder_2=tower(20, 10, 6, hidden_act="gelu", **clip),
        scheduler=diffusers.EulerDiscreteScheduler(**EULER), requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def t5() -> tuple[Any, Any]:
    """T5's encoder and a tokenizer of letters."""
    import transformers

    letters = [(chr(c), -3.0) for c in range(97, 123)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0), *letters]
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=40, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return random(transformers.T5EncoderModel(config), 3), transformers.T5Tokenizer(pieces, extra_ids=0)


def sd3(folder: Path, with_t5: bool = True) -> Any:
    """Stable Diffusion 3.5, with a shift of its latents."""
    import diffusers

    tokenizer = tokenizer_of(folder)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=18, pos_embed_max_size=6,
        qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, norm_num_groups=4, sample_size=16,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, scaling_factor=1.5, shift_factor=0.06,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    encoder, pieces = t5() if with_t5 else (None, None)
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=random(transformer, 0), vae=random(vae, 1), text_encoder=tower(16, 10, 1), tokenizer=tokenizer,
        text_encoder_2=tower(20, 8, 2), tokenizer_2=tokenizer, text_encoder_3=encoder, tokenizer_3=pieces,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
