"""Times: the distribution of noise levels that training visits."""

from diffusion.objective.time_distribution.carried import CarriedTimeDistribution
from diffusion.objective.time_distribution.cosmap import CosMapTimeDistribution
from diffusion.objective.time_distribution.importance import ImportanceTimeDistribution
from diffusion.objective.time_distribution.listed import ListedTimeDistribution
from diffusion.objective.time_distribution.log_normal import LogNormalTimeDistribution
from diffusion.objective.time_distribution.logit_normal import LogitNormalTimeDistribution
from diffusion.objective.time_distribution.mode import ModeTimeDistribution
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution

__all__ = [
    "CarriedTimeDistribution",
    "CosMapTimeDistribution",
    "ImportanceTimeDistribution",
    "ListedTimeDistribution",
    "LogNormalTimeDistribution",
    "LogitNormalTimeDistribution",
    "ModeTimeDistribution",
    "UniformTimeDistribution",
]
