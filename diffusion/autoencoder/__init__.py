"""Autoencoders: images in [-1, 1] <-> the latents in which diffusion runs."""

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
