r"""Linear operators of a measurement y = A x_0 + noise: what is known of an image, for guidance by measurement."""

from diffusion.operator.base import Operator
from diffusion.operator.blur import BlurOperator
from diffusion.operator.downsample import DownsampleOperator
from diffusion.operator.mask import MaskOperator

__all__ = ["BlurOperator", "DownsampleOperator", "MaskOperator", "Operator"]
