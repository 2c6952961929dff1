"""Edits of an image by a diffusion model: a function of the model, the image, a mask and a condition.

Every edit works where diffusion runs, on pixels or on latents; :class:`diffusion.editing.frame.Frame` brings an image
of any size there and back.
"""

from diffusion.editing.background import BackgroundEdit
from diffusion.editing.base import Edit, Embedded, Subject
from diffusion.editing.blend import BlendEdit
from diffusion.editing.diffedit import DiffEdit
from diffusion.editing.inpaint import InpaintEdit
from diffusion.editing.interpolate import InterpolateEdit
from diffusion.editing.invert import InvertEdit
from diffusion.editing.outpaint import OutpaintEdit
from diffusion.editing.pipeline import EditPipeline
from diffusion.editing.restore import RestoreEdit
from diffusion.editing.restyle import RestyleEdit
from diffusion.editing.text_difference import TextDifferenceEdit
from diffusion.editing.upscale import UpscaleEdit
from diffusion.editing.variation import VariationEdit

__all__ = [
    "BackgroundEdit",
    "BlendEdit",
    "DiffEdit",
    "Edit",
    "EditPipeline",
    "Embedded",
    "InpaintEdit",
    "InterpolateEdit",
    "InvertEdit",
    "OutpaintEdit",
    "RestoreEdit",
    "RestyleEdit",
    "Subject",
    "TextDifferenceEdit",
    "UpscaleEdit",
    "VariationEdit",
]
