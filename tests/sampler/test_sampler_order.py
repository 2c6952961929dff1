"""Settings of samplers beside those in conf/ (tests/test_contracts.py): declared order against measured, exactly."""

from functools import partial

import pytest
import torch
from exact import Between, ContinuousVP, Exploding, Flow, noise, slope

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.angle_ode import integrate
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.euler import EulerSampler
from diffusion.sampler.euler_maruyama import EulerMaruyamaSampler
from diffusion.sampler.exponential.deis import DEISSampler
from diffusion.sampler.exponential.dpm_solver_2 import DPMSolver2Sampler
from diffusion.sampler.exponential.dpm_solver_3 import DPMSolver3Sampler
from diffusion.sampler.exponential.dpm_solver_fast import DPMSolverFastSampler
from diffusion.sampler.exponential.dpm_solver_m import DPMSolverMSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m import DPMSolverPP2MSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m_sde import DPMSolverPP2MSDESampler
from diffusion.sampler.exponential.dpm_solver_pp_2s import DPMSolverPP2SSampler
from diffusion.sampler.exponential.dpm_solver_pp_3m import DPMSolverPP3MSampler
from diffusion.sampler.exponential.dpm_solver_pp_3s import DPMSolverPP3SSampler
from diffusion.sampler.exponential.unipc import UniPCSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.sampler.lms import LMSSampler
from diffusion.sampler.pndm import PNDMSampler
from diffusion.sampler.restart import RestartSampler
from diffusion.sampler.reverse_diffusion import ReverseDiffusionSampler
from diffusion.sampler.rk45 import RK45Sampler
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.testing import check_order

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.5])

INNER = {"vp": (ContinuousVP(), 0.1, 0.8), "flow": (Flow(), 0.1, 0.9), "exploding": (Exploding(), 0.15, 0.5)}
EVEN = {name: Between(*inner) for name, inner in INNER.items()}  # no end is singular here
on_three_schedules = pytest.mark.parametrize("schedule", EVEN.values(), ids=EVEN.keys())

DETERMINISTIC = {
    "ddim": DDIMSampler,
    "euler": EulerSampler,
    "heun": HeunSampler,
    "dpm_solver_2": DPMSolver2Sampler,
    "dpm_solver_3": DPMSolver3Sampler,
    "dpm_solver_pp_2s": DPMSolverPP2SSampler,
    "dpm_solver_pp_3s": DPMSolverPP3SSampler,
    "dpm_solver_pp_2m": DPMSolverPP2MSampler,
    "dpm_solver_pp_3m": DPMSolverPP3MSampler,
    "dpm_solver_pp_2m_sde at eta 0": lambda n: DPMSolverPP2MSDESampler(n, eta=0.0),
    "pndm": PNDMSampler,
    "plms": lambda n: PNDMSampler(n, start="improved_euler"),
    "restart without intervals": lambda n: RestartSampler(n, intervals=[]),
} | {
    f"{make.__name__} {k}": lambda n, make=make, name=name, k=k: make(n, **{name: k})
    for make, name, ks in [
        (DEISSampler, "order", (1, 2, 3, 4)),
        (LMSSampler, "order", (1, 2, 3, 4)),
        (UniPCSampler, "predictor", (1, 2, 3)),
    ]
    for k in ks
}
DETERMINISTIC["UniPC bh1"] = lambda n: UniPCSampler(n, variant="bh1")


@pytest.mark.slow
@pytest.mark.parametrize("make", DETERMINISTIC.values(), ids=DETERMINISTIC.keys())
def test_deterministic_samplers_converge_with_their_declared_order(make):
    check_order(make)


ON_EVEN_STEPS = {
    "dpm_solver_m": (DPMSolverMSampler, 2, [100, 200]),
    "dpm_solver_m of 2": (partial(DPMSolverMSampler, answers=2), 2, [100, 200]),
    "dpm_solver_fast": (DPMSolverFastSampler, 2, [60, 120]),
    "dpm_solver_fast, no last step of order 1": (DPMSolverFastSampler, 3, [125, 251]),
    "dpm_solver_fast on the data": (partial(DPMSolverFastSampler, predicts="data"), 2, [60, 120]),
    "... and no last step of order 1": (partial(DPMSolverFastSampler, predicts="data"), 3, [125, 251]),
}
"""Sampler, order, steps. Small first steps make large last ones, which are the low orders of DPM-Solver-fast."""


@on_three_schedules
@pytest.mark.parametrize(("make", "order", "steps"), ON_EVEN_STEPS.values(), ids=ON_EVEN_STEPS.keys())
def test_order_on_even_steps(make, order, steps, schedule):
    denoiser, z = GaussianDenoiser(schedule, MEAN, STD), noise()
    exact = denoiser.transport(z * schedule.prior_std(schedule.level(1.0)), 1.0, 0.0)
    errors = [float((make(n, TrailingSpacing())(denoiser, z) - exact).norm()) for n in steps]
    assert slope(steps, errors) == pytest.approx(order, abs=0.3)
    assert make(10).order == 2


@on_three_schedules
def test_the_black_box_solver_has_its_declared_order_where_it_cannot_adapt(schedule, monkeypatch):
    """Tolerances that any step meets and a first step as long as the sampler's leave one step of Dormand-Prince."""
    whole = lambda f, u, a, b, *tolerances: integrate(f, u, a, b, *tolerances, first_step=abs(b - a))  # noqa: E731
    monkeypatch.setattr("diffusion.sampler.rk45.integrate", whole)
    denoiser, z = GaussianDenoiser(schedule, MEAN, STD), noise()
    exact = denoiser.transport(z * schedule.prior_std(schedule.level(1.0)), 1.0, 0.0)
    steps = [32, 64]
    errors = [float((RK45Sampler(n, rtol=1e6, atol=1e6)(denoiser, z) - exact).norm()) for n in steps]
    assert slope(steps, errors) == pytest.approx(RK45Sampler.order, abs=0.8)


@on_three_schedules
def test_the_adaptive_solver_follows_its_tolerance(schedule):
    denoiser, z = GaussianDenoiser(schedule, MEAN, STD), noise()
    exact = denoiser.transport(z * schedule.prior_std(schedule.level(1.0)), 1.0, 0.0)
    for tolerance in (1e-3, 1e-5, 1e-7):
        error = float((RK45Sampler(1, rtol=tolerance, atol=tolerance)(denoiser, z) - exact).abs().max())
        assert error < 500 * tolerance


STOCHASTIC = {
    "ancestral small": AncestralSampler,
    "ancestral large": lambda n: AncestralSampler(n, variance="large"),
    "ddim 0.5": lambda n: DDIMSampler(n, eta=0.5),
    "ddim 1": lambda n: DDIMSampler(n, eta=1.0),
    "euler with churn": lambda n: EulerSampler(n, churn=2.0),
    "euler_maruyama": EulerMaruyamaSampler,
    "heun with churn": lambda n: HeunSampler(n, churn=2.0),
    "reverse_diffusion": ReverseDiffusionSampler,
    "dpm_solver_pp_2m_sde": DPMSolverPP2MSDESampler,
    "dpm_solver_pp_2m_sde 0.5": lambda n: DPMSolverPP2MSDESampler(n, eta=0.5),
    "restart": lambda n: RestartSampler(n, intervals=[[max(n // 8, 1), 2, 0.5, 1.0]]),
}


@pytest.mark.parametrize("make", STOCHASTIC.values(), ids=STOCHASTIC.keys())
def test_stochastic_samplers_reach_the_exact_moments_with_their_declared_weak_order(make):
    check_order(make)
