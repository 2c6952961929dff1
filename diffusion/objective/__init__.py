"""Objectives: (denoiser, x_0, condition) -> one loss for each sample."""

from diffusion.objective.base import Loss, Objective, TimeDistribution, Weighting
from diffusion.objective.classification import ClassificationObjective
from diffusion.objective.hybrid import HybridObjective
from diffusion.objective.noising import Noised, NoisingObjective
from diffusion.objective.regression import RegressionObjective
from diffusion.objective.variational import BitsPerDim
from diffusion.objective.vlb import VLBObjective

__all__ = [
    "BitsPerDim",
    "ClassificationObjective",
    "HybridObjective",
    "Loss",
    "Noised",
    "NoisingObjective",
    "Objective",
    "RegressionObjective",
    "TimeDistribution",
    "VLBObjective",
    "Weighting",
]
