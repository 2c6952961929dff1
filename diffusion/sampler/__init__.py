"""Samplers: noise -> data along a schedule's levels, by a denoiser."""

from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.base import Denoise, Sampler, StepReplay
from diffusion.sampler.bdia import BDIASampler
from diffusion.sampler.churn import ChurnedSampler
from diffusion.sampler.consistency import ConsistencySampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.euler import EulerSampler
from diffusion.sampler.euler_maruyama import EulerMaruyamaSampler
from diffusion.sampler.flow_map import FlowMapSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.sampler.likelihood import FlowLogLikelihood
from diffusion.sampler.lms import LMSSampler
from diffusion.sampler.multistep import MultistepSampler
from diffusion.sampler.pndm import PNDMSampler
from diffusion.sampler.predictor_corrector import PredictorCorrectorSampler
from diffusion.sampler.restart import RestartSampler
from diffusion.sampler.reverse_diffusion import ReverseDiffusionSampler
from diffusion.sampler.rk45 import RK45Sampler

__all__ = [
    "AncestralSampler",
    "BDIASampler",
    "ChurnedSampler",
    "ConsistencySampler",
    "DDIMSampler",
    "Denoise",
    "EulerMaruyamaSampler",
    "EulerSampler",
    "FlowLogLikelihood",
    "FlowMapSampler",
    "HeunSampler",
    "LMSSampler",
    "MultistepSampler",
    "PNDMSampler",
    "PredictorCorrectorSampler",
    "RK45Sampler",
    "RestartSampler",
    "ReverseDiffusionSampler",
    "Sampler",
    "StepReplay",
]
