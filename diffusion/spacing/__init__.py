"""Spacings: which times of a schedule a sampler visits."""

from diffusion.spacing.align_your_steps import AlignYourStepsSpacing
from diffusion.spacing.exponential import ExponentialSpacing
from diffusion.spacing.indices import IndicesSpacing
from diffusion.spacing.karras import KarrasSpacing
from diffusion.spacing.linspace import LinspaceSpacing
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.spacing.quadratic import QuadraticSpacing
from diffusion.spacing.sections import SectionsSpacing
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.spacing.uniform import UniformSpacing

__all__ = [
    "AlignYourStepsSpacing",
    "ExponentialSpacing",
    "IndicesSpacing",
    "KarrasSpacing",
    "LinspaceSpacing",
    "LogSNRSpacing",
    "QuadraticSpacing",
    "SectionsSpacing",
    "TrailingSpacing",
    "UniformSpacing",
]
