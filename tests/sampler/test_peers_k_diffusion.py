"""The same noise and the same denoiser through k-diffusion's functions and through ours, in float64 (extra: peers)."""

import importlib.util
import sys
import types
from itertools import pairwise

import pytest
import torch
from exact import Exploding, Wiggly, noise, replay

from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.euler import EulerSampler
from diffusion.sampler.exponential.dpm_solver_2 import DPMSolver2Sampler
from diffusion.sampler.exponential.dpm_solver_3 import DPMSolver3Sampler
from diffusion.sampler.exponential.dpm_solver_pp_2m import DPMSolverPP2MSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m_sde import DPMSolverPP2MSDESampler
from diffusion.sampler.exponential.dpm_solver_pp_2s import DPMSolverPP2SSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.sampler.lms import LMSSampler
from diffusion.spacing.exponential import ExponentialSpacing
from diffusion.spacing.karras import KarrasSpacing

spec = importlib.util.find_spec("k_diffusion")
if spec is None:
    pytest.skip("k-diffusion is not installed (pip install alphabar[peers])", allow_module_level=True)
if "k_diffusion" not in sys.modules:  # its package imports CLIP, which samplers do not need
    sys.modules["k_diffusion"] = types.ModuleType("k_diffusion")
    sys.modules["k_diffusion"].__path__ = list(spec.submodule_search_locations)
kd = pytest.importorskip("k_diffusion.sampling")

SCHEDULE = Exploding()
DRAWS = [noise(seed=1 + i) for i in range(40)]


def sigmas(levels):
    return torch.tensor([level.noise for level in levels], dtype=torch.float64)


def model(x, sigma):
    return Wiggly(SCHEDULE)(x, SCHEDULE.time(float(sigma.flatten()[0]))).x0


def theirs(function, sampler, **settings):
    levels = sampler.levels(SCHEDULE)
    return function(model, noise() * levels[0].noise, sigmas(levels), disable=True, **settings)


@pytest.mark.parametrize("rho", [1.0, 7.0, None])
def test_spacings(rho):
    """Their sigmas are float32."""
    if rho is None:
        want = kd.get_sigmas_karras(15, 0.002, 80.0)
        got = sigmas(EulerSampler(15, KarrasSpacing()).levels(SCHEDULE))
    else:
        want = kd.get_sigmas_polyexponential(15, 0.002, 80.0, rho)
        got = sigmas(EulerSampler(15, ExponentialSpacing(rho)).levels(SCHEDULE))
    assert torch.allclose(got, want.double(), rtol=1e-4)


@pytest.mark.parametrize(
    ("sampler", "function", "settings"),
    [
        (EulerSampler(20, KarrasSpacing()), kd.sample_euler, {}),
        (HeunSampler(20, KarrasSpacing()), kd.sample_heun, {}),
        (DPMSolverPP2MSampler(20, KarrasSpacing()), kd.sample_dpmpp_2m, {}),
        (DPMSolverPP2SSampler(20, KarrasSpacing()), kd.sample_dpmpp_2s_ancestral, {"eta": 0.0}),
        (LMSSampler(20, KarrasSpacing(), order=4), kd.sample_lms, {"order": 4}),
        (DPMSolver2Sampler(20, KarrasSpacing()), kd.sample_dpm_2, {}),
    ],
    ids=["euler", "heun", "2m", "2s", "lms", "dpm2"],
)
def test_deterministic(sampler, function, settings):
    got, want = sampler(Wiggly(SCHEDULE), noise()), theirs(function, sampler, **settings)
    assert float((got - want).abs().max()) < 1e-5 * float(want.abs().max())


@pytest.mark.parametrize(("make", "function"), [(EulerSampler, kd.sample_euler), (HeunSampler, kd.sample_heun)])
def test_churn(make, function, monkeypatch):
    """They draw noise at every step, used or not; ours is drawn where it counts."""
    settings = {"s_churn": 10.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
    sampler = make(20, KarrasSpacing(), churn=10.0, churn_min=0.05, churn_max=50.0, churn_noise=1.003)
    levels = sampler.levels(SCHEDULE)
    used = [z for z, level in zip(DRAWS, levels[:-1], strict=False) if 0.05 <= level.noise <= 50.0]
    monkeypatch.setattr(torch, "randn_like", replay(DRAWS))
    want = theirs(function, sampler, **settings)
    got = sampler(Wiggly(SCHEDULE), noise(), randn_like=replay(used))
    assert float((got - want).abs().max()) < 1e-6 * float(want.abs().max())


@pytest.mark.parametrize(
    ("sampler", "function", "settings"),
    [
        (DDIMSampler(20, KarrasSpacing(), eta=1.0), kd.sample_euler_ancestral, {}),
        (DDIMSampler(20, KarrasSpacing(), eta=0.5), kd.sample_euler_ancestral, {"eta": 0.5}),
        (DPMSolverPP2MSDESampler(20, KarrasSpacing()), kd.sample_dpmpp_2m_sde, {"solver_type": "midpoint"}),
        (
            DPMSolverPP2MSDESampler(20, KarrasSpacing(), eta=0.5),
            kd.sample_dpmpp_2m_sde,
            {"solver_type": "midpoint", "eta": 0.5},
        ),
    ],
    ids=["euler ancestral", "eta 0.5", "2m sde", "2m sde 0.5"],
)
def test_stochastic(sampler, function, settings):
    source = replay(DRAWS)
    want = theirs(function, sampler, noise_sampler=lambda *levels: source(None), **settings)
    got = sampler(Wiggly(SCHEDULE), noise(), randn_like=replay(DRAWS))
    assert float((got - want).abs().max()) < 1e-6 * float(want.abs().max())


def test_dpm_solver_3():
    sampler = DPMSolver3Sampler(12, KarrasSpacing())
    levels = sampler.levels(SCHEDULE)
    solver, x = kd.DPMSolver(model), noise() * levels[0].noise
    for cur, nxt in pairwise(levels[:-1]):
        at = [torch.tensor(level.lam, dtype=torch.float64) for level in (cur, nxt)]
        x, _ = solver.dpm_solver_3_step(x, *at)
    seen = []
    sampler(Wiggly(SCHEDULE), noise(), on_step=lambda i, level, x, x0: seen.append(x))
    assert float((seen[-2] - x).abs().max()) < 1e-6 * float(x.abs().max())
