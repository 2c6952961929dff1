"""Every configured sampler on every kind of schedule, real ends and all: a Gaussian keeps its mean and its spread."""

import pytest
import torch
from exact import SAMPLERS, from_config, noise

from diffusion.denoiser import GaussianDenoiser
from diffusion.schedule.continuous_cosine import ContinuousCosine
from diffusion.schedule.cosine import Cosine
from diffusion.schedule.edm import EDM
from diffusion.schedule.flow import Flow
from diffusion.schedule.geometric import Geometric
from diffusion.schedule.linear import Linear
from diffusion.schedule.scaled_linear import ScaledLinear
from diffusion.schedule.sigmoid import Sigmoid
from diffusion.schedule.sub_vp import SubVP
from diffusion.schedule.vp import VP
from diffusion.schedule.zero_snr import ZeroSNR

SCHEDULES = {
    "cosine": Cosine(1000),
    "short cosine": Cosine(100),
    "linear": Linear(1000),
    "scaled_linear": ScaledLinear(1000),
    "sigmoid": Sigmoid(1000),
    "zero_snr": ZeroSNR(Linear(1000)),
    "short zero_snr": ZeroSNR(Cosine(100)),
    "vp": VP(),
    "sub_vp": SubVP(),
    "continuous_cosine": ContinuousCosine(),
    "flow": Flow(),
    "shifted flow": Flow(3.0),
    "edm": EDM(),
    "geometric": Geometric(),
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
