r"""Weightings: how much each noise level counts, stated on the squared x_0 error as a function of the log-SNR.

What a paper states on another target follows from ||target error||^2 gain = ||x_0 error||^2, gain = (sigma / d)^2: a
weight w on the noise's error (d = alpha) is w SNR on the x_0 error, and on v's error w (SNR + 1) where
alpha^2 + sigma^2 = 1.
"""

from diffusion.objective.weighting.constant import ConstantWeighting
from diffusion.objective.weighting.edm import EDMWeighting
from diffusion.objective.weighting.min_snr import MinSNRWeighting
from diffusion.objective.weighting.p2 import P2Weighting
from diffusion.objective.weighting.sigmoid import SigmoidWeighting
from diffusion.objective.weighting.snr_plus_one import SNRPlusOneWeighting
from diffusion.objective.weighting.soft_min_snr import SoftMinSNRWeighting
from diffusion.objective.weighting.truncated_snr import TruncatedSNRWeighting

__all__ = [
    "ConstantWeighting",
    "EDMWeighting",
    "MinSNRWeighting",
    "P2Weighting",
    "SNRPlusOneWeighting",
    "SigmoidWeighting",
    "SoftMinSNRWeighting",
    "TruncatedSNRWeighting",
]
