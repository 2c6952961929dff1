r"""The likelihood of held-out images under a model, in bits per dimension: lower is better.

Variational: the bound over a beta table's chain. Flow: the density of the probability-flow ODE. Both are of the model
as it samples, its guidance included where a likelihood can be computed of it.
"""

from diffusion.evaluation.likelihood.alone import LikelihoodEvaluator
from diffusion.evaluation.likelihood.base import Likelihood, Measured
from diffusion.evaluation.likelihood.flow import FlowLikelihood
from diffusion.evaluation.likelihood.variational import VariationalLikelihood

__all__ = ["FlowLikelihood", "Likelihood", "LikelihoodEvaluator", "Measured", "VariationalLikelihood"]
