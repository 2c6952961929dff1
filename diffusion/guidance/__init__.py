"""Guidance: denoisers around a denoiser, which change its prediction or the state between two steps."""

from diffusion.guidance.apg import APGGuidance
from diffusion.guidance.auto import AutoGuidance
from diffusion.guidance.base import Guidance, StepReplay, guide
from diffusion.guidance.cfg_plus_plus import CFGPlusPlusGuidance
from diffusion.guidance.classifier import ClassifierGuidance, NoisyClassifier
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.guidance.clip import ClipGuidance
from diffusion.guidance.dps import DPSGuidance
from diffusion.guidance.dynamic_threshold import DynamicThresholdGuidance
from diffusion.guidance.inpaint import InpaintGuidance
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.guidance.pigdm import PiGDMGuidance
from diffusion.guidance.repaint import RePaintGuidance
from diffusion.guidance.strength import Strength

__all__ = [
    "APGGuidance",
    "AutoGuidance",
    "CFGPlusPlusGuidance",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "ClipGuidance",
    "DPSGuidance",
    "DynamicThresholdGuidance",
    "Guidance",
    "InpaintGuidance",
    "MeasurementGuidance",
    "NoisyClassifier",
    "PiGDMGuidance",
    "RePaintGuidance",
    "StepReplay",
    "Strength",
    "guide",
]
