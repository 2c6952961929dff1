"""Conditioners: the columns of a batch -> the condition (:class:`diffusion.types.Cond`) that a network reads."""

from diffusion.conditioner.base import Conditioner
from diffusion.conditioner.image_embedding import ImageEmbeddingConditioner
from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.low_resolution import LowResolutionConditioner
from diffusion.conditioner.mask import MaskConditioner
from diffusion.conditioner.none import NoConditioner
from diffusion.conditioner.sizes import SizesConditioner
from diffusion.conditioner.style_reference import StyleReferenceConditioner
from diffusion.conditioner.text import TextConditioner

__all__ = [
    "Conditioner",
    "ImageEmbeddingConditioner",
    "JoinedConditioner",
    "LabelConditioner",
    "LowResolutionConditioner",
    "MaskConditioner",
    "NoConditioner",
    "SizesConditioner",
    "StyleReferenceConditioner",
    "TextConditioner",
]
