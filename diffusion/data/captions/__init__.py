"""Captions of training images that are drawn anew in each epoch, and files that hold captions."""

from diffusion.data.captions.base import Captions
from diffusion.data.captions.several import SeveralCaptions
from diffusion.data.captions.templates import TemplateCaptions

__all__ = ["Captions", "SeveralCaptions", "TemplateCaptions"]
