"""A KL autoencoder of a few thousand random weights, saved as diffusers saves one."""

from pathlib import Path

import torch


def save_tiny(folder: Path, factor: int = 8, channels: int = 4, image_channels: int = 3, **more) -> Path:
    """Its folder; images of ``image_channels`` to latents of ``channels`` that are ``factor`` times smaller."""
    from diffusers import AutoencoderKL  # slow to import

    levels = factor.bit_length()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoencoderKL(
            in_channels=image_channels,
            out_channels=image_channels,
            latent_channels=channels,
            block_out_channels=(4,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            norm_num_groups=2,
            sample_size=4 * factor,
            **more,
        )
    model.save_pretrained(folder)
    return folder
