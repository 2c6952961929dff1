"""Stable Diffusion and latent diffusion: their U-Net, first stages, text encoders and folders, by the codes' names."""

from diffusion.pretrained.latent.pipeline import read_stable_diffusion
from diffusion.pretrained.latent.unet_condition import read_unet_condition

__all__ = ["read_stable_diffusion", "read_unet_condition"]
