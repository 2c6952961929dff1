"""Autoencoders of a few thousand random weights, saved as diffusers saves one."""

from pathlib import Path

import torch


def save_tiny(folder: Path, factor: int = 8, channels: int = 4, image_channels: int = 3, **more) -> Path:
    """The folder of a KL autoencoder; images of ``image_channels`` to latents of ``channels``, ``factor`` times
    smaller."""
    return _save("AutoencoderKL", folder, factor, channels, image_channels, **more)


def save_tiny_vq(folder: Path, factor: int = 4, channels: int = 3, **more) -> Path:
    """That of a VQ autoencoder with a codebook of 8."""
    return _save("VQModel", folder, factor, channels, 3, **{"num_vq_embeddings": 8, "scaling_factor": 1.0} | more)


def save_tiny_convolutional(folder: Path, factor: int = 8) -> Path:
    """That of one without a posterior."""
    from diffusers import AutoencoderTiny

    widths, blocks = (4,) * factor.bit_length(), (1,) * factor.bit_length()
    with torch.random.fork_rng(devices=[]):
        model = AutoencoderTiny(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks,
        )
    model.save_pretrained(folder)
    return folder


def _save(kind: str, folder: Path, factor: int, channels: int, image_channels: int, **more) -> Path:
    import diffusers  # slow to import

    levels = factor.bit_length()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(diffusers, kind)(
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
