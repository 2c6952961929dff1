"""Parameterizations: what a network's output stands for, and the x_0 and eps that follow from it."""

from diffusion.parameterization.base import Parameterization
from diffusion.parameterization.combined import CombinedParameterization
from diffusion.parameterization.edm import EDMParameterization
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.parameterization.flow import FlowParameterization
from diffusion.parameterization.posterior_mean import PosteriorMeanParameterization
from diffusion.parameterization.score import ScoreParameterization
from diffusion.parameterization.solved import Solved, Source
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.parameterization.x0 import X0Parameterization

__all__ = [
    "CombinedParameterization",
    "EDMParameterization",
    "EpsilonParameterization",
    "FlowParameterization",
    "Parameterization",
    "PosteriorMeanParameterization",
    "ScoreParameterization",
    "Solved",
    "Source",
    "VelocityParameterization",
    "X0Parameterization",
]
