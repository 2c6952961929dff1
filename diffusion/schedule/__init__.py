"""Schedules: alpha(t) and sigma(t) of x_t = alpha x_0 + sigma eps."""

from diffusion.schedule.base import DiscreteSchedule, Level, Schedule, VariancePreservingSchedule
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.schedule.geometric import GeometricSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.schedule.posterior import Posterior
from diffusion.schedule.scaled_linear import ScaledLinearSchedule
from diffusion.schedule.sigmoid import SigmoidSchedule
from diffusion.schedule.sub_vp import SubVPSchedule
from diffusion.schedule.table import TableSchedule
from diffusion.schedule.trig import TrigSchedule
from diffusion.schedule.vp import VPSchedule
from diffusion.schedule.zero_snr import ZeroSNRSchedule

__all__ = [
    "ContinuousCosineSchedule",
    "CosineSchedule",
    "DiscreteSchedule",
    "EDMSchedule",
    "FlowSchedule",
    "GeometricSchedule",
    "Level",
    "LinearSchedule",
    "Posterior",
    "ScaledLinearSchedule",
    "Schedule",
    "SigmoidSchedule",
    "SubVPSchedule",
    "TableSchedule",
    "TrigSchedule",
    "VPSchedule",
    "VariancePreservingSchedule",
    "ZeroSNRSchedule",
]
