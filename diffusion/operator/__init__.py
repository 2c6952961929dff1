r"""Operators of a measurement y = A x_0 + noise: what is known of an image, for guidance by measurement."""

from diffusion.operator.base import NonlinearOperator, Operator
from diffusion.operator.blur import BlurOperator
from diffusion.operator.box_blur import BoxBlurOperator
from diffusion.operator.clip import ClipOperator
from diffusion.operator.compressed import CompressedOperator
from diffusion.operator.convolution import ConvolutionOperator
from diffusion.operator.downsample import DownsampleOperator
from diffusion.operator.fourier import FourierOperator
from diffusion.operator.gray import GrayOperator
from diffusion.operator.mask import MaskOperator
from diffusion.operator.motion_blur import MotionBlurOperator
from diffusion.operator.noise import estimated_noise
from diffusion.operator.phase import PhaseOperator
from diffusion.operator.radon import RadonOperator

__all__ = [
    "BlurOperator",
    "BoxBlurOperator",
    "ClipOperator",
    "CompressedOperator",
    "ConvolutionOperator",
    "DownsampleOperator",
    "FourierOperator",
    "GrayOperator",
    "MaskOperator",
    "MotionBlurOperator",
    "NonlinearOperator",
    "Operator",
    "PhaseOperator",
    "RadonOperator",
    "estimated_noise",
]
