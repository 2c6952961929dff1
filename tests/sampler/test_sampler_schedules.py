"""Every configured sampler on every kind of schedule, real ends and all: a Gaussian keeps its mean and its spread."""

import pytest
import torch
from exact import SAMPLERS, from_config, noise

from diffusion.denoiser import GaussianDenoiser
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.schedule.geometric import GeometricSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.schedule.scaled_linear import ScaledLinearSchedule
from diffusion.schedule.sigmoid import SigmoidSchedule
from diffusion.schedule.sub_vp import SubVPSchedule
from diffusion.schedule.vp import VPSchedule
from diffusion.schedule.zero_snr import ZeroSNRSchedule

SCHEDULES = {
    "cosine": CosineSchedule(1000),
    "short cosine": CosineSchedule(100),
    "linear": LinearSchedule(1000),
    "scaled_linear": ScaledLinearSchedule(1000),
    "sigmoid": SigmoidSchedule(1000),
    "zero_snr": ZeroSNRSchedule(LinearSchedule(1000)),
    "short zero_snr": ZeroSNRSchedule(CosineSchedule(100)),
    "vp": VPSchedule(),
    "sub_vp": SubVPSchedule(),
    "continuous_cosine": ContinuousCosineSchedule(),
    "flow": FlowSchedule(),
    "shifted flow": FlowSchedule(3.0),
    "edm": EDMSchedule(),
    "geometric": GeometricSchedule(),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("path", SAMPLERS, ids=lambda path: path.stem)
def test_a_sampler_works_with_any_schedule(path, name):
    """64 dimensions, where Langevin correction is at home; first-order methods are not far off in 60 steps."""
    torch.manual_seed(1)
    sampler = from_config(path, **({} if path.stem == "rk45" else {"steps": 60}))
    x = sampler(GaussianDenoiser(SCHEDULES[name], 0.5, 0.3), noise(64, 64))
    assert float(x.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(x.std()) == pytest.approx(0.3, abs=0.05)
