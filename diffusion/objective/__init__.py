"""Objectives: (denoiser, x_0, condition) -> one loss for each sample."""

from diffusion.objective.base import Adversary, Loss, Objective, Step, TimeDistribution, Weighting
from diffusion.objective.classification import ClassificationObjective
from diffusion.objective.hybrid import HybridObjective
from diffusion.objective.matching import MatchingObjective
from diffusion.objective.noising import Noised, NoisingObjective
from diffusion.objective.regression import RegressionObjective
from diffusion.objective.variational import BitsPerDim
from diffusion.objective.vlb import VLBObjective

__all__ = [
    "Adversary",
    "BitsPerDim",
    "ClassificationObjective",
    "HybridObjective",
    "Loss",
    "MatchingObjective",
    "Noised",
    "NoisingObjective",
    "Objective",
    "RegressionObjective",
    "Step",
    "TimeDistribution",
    "VLBObjective",
    "Weighting",
]
