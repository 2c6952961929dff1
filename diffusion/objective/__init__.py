"""Objectives: (denoiser, x_0, condition) -> one loss for each sample."""

from diffusion.objective.base import Adversary, Criterion, Loss, Objective, Step, TimeDistribution, Weighting
from diffusion.objective.classification import ClassificationObjective
from diffusion.objective.consistency_distillation import ConsistencyDistillationObjective
from diffusion.objective.consistency_training import ConsistencyTrainingObjective
from diffusion.objective.continuous_consistency import ContinuousConsistencyObjective
from diffusion.objective.continuous_distillation import ContinuousDistillationObjective
from diffusion.objective.distribution_matching import DistributionMatchingObjective
from diffusion.objective.guidance_distillation import GuidanceDistillationObjective
from diffusion.objective.hybrid import HybridObjective
from diffusion.objective.matching import MatchingObjective
from diffusion.objective.mean_flow import MeanFlowObjective
from diffusion.objective.noising import Noised, NoisingObjective
from diffusion.objective.progressive import ProgressiveObjective
from diffusion.objective.reflow import ReflowObjective
from diffusion.objective.regression import RegressionObjective
from diffusion.objective.score_identity import ScoreIdentityObjective
from diffusion.objective.shortcut import ShortcutObjective
from diffusion.objective.variational import BitsPerDim
from diffusion.objective.vlb import VLBObjective

__all__ = [
    "Adversary",
    "BitsPerDim",
    "ClassificationObjective",
    "ConsistencyDistillationObjective",
    "ConsistencyTrainingObjective",
    "ContinuousConsistencyObjective",
    "ContinuousDistillationObjective",
    "Criterion",
    "DistributionMatchingObjective",
    "GuidanceDistillationObjective",
    "HybridObjective",
    "Loss",
    "MatchingObjective",
    "MeanFlowObjective",
    "Noised",
    "NoisingObjective",
    "Objective",
    "ProgressiveObjective",
    "ReflowObjective",
    "RegressionObjective",
    "ScoreIdentityObjective",
    "ShortcutObjective",
    "Step",
    "TimeDistribution",
    "VLBObjective",
    "Weighting",
]
