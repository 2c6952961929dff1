"""Published models: their files, their names for tensors, and what config builds the same model here."""

from diffusion.pretrained.base import Link, Part, Published, Tensors

__all__ = ["Link", "Part", "Published", "Tensors"]
