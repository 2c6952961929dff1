"""Autoencoders: images in [-1, 1] <-> the latents in which diffusion runs."""

import logging

__all__ = [
    "base",
    "identity",
    "kl",
    "pretrained",
    "trainable",
    "trainable_kl",
    "trainable_vq",
    "vq",
    "weights",
]

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # diffusers imports it, and it tells of kernels for 4 bits
