"""Guidance: denoisers around a denoiser, which change its prediction or the state between two steps."""

from diffusion.guidance.apg import APGGuidance
from diffusion.guidance.auto import AutoGuidance
from diffusion.guidance.base import Guidance, StepReplay, guide
from diffusion.guidance.cfg_plus_plus import CFGPlusPlusGuidance
from diffusion.guidance.classifier import ClassifierGuidance, NoisyClassifier
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.guidance.clip import ClipGuidance
from diffusion.guidance.daps import DAPSGuidance
from diffusion.guidance.ddnm import DDNMGuidance
from diffusion.guidance.ddnm_plus import DDNMPlusGuidance
from diffusion.guidance.ddrm import DDRMGuidance
from diffusion.guidance.diffpir import DiffPIRGuidance
from diffusion.guidance.distilled import DistilledGuidance
from diffusion.guidance.dps import DPSGuidance
from diffusion.guidance.dynamic_threshold import DynamicThresholdGuidance
from diffusion.guidance.expert import ExpertGuidance
from diffusion.guidance.inpaint import InpaintGuidance
from diffusion.guidance.mcg import MCGGuidance
from diffusion.guidance.measurement import MeasurementGuidance
from diffusion.guidance.mmps import MMPSGuidance
from diffusion.guidance.pigdm import PiGDMGuidance
from diffusion.guidance.psld import PSLDGuidance
from diffusion.guidance.repaint import RePaintGuidance
from diffusion.guidance.resample import ReSampleGuidance
from diffusion.guidance.strength import Strength
from diffusion.guidance.tmpd import TMPDGuidance
from diffusion.guidance.twisted import TwistedGuidance

__all__ = [
    "APGGuidance",
    "AutoGuidance",
    "CFGPlusPlusGuidance",
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "ClipGuidance",
    "DAPSGuidance",
    "DDNMGuidance",
    "DDNMPlusGuidance",
    "DDRMGuidance",
    "DPSGuidance",
    "DiffPIRGuidance",
    "DistilledGuidance",
    "DynamicThresholdGuidance",
    "ExpertGuidance",
    "Guidance",
    "InpaintGuidance",
    "MCGGuidance",
    "MMPSGuidance",
    "MeasurementGuidance",
    "NoisyClassifier",
    "PSLDGuidance",
    "PiGDMGuidance",
    "RePaintGuidance",
    "ReSampleGuidance",
    "StepReplay",
    "Strength",
    "TMPDGuidance",
    "TwistedGuidance",
    "guide",
]
