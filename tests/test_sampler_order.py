"""Every sampler's declared order against the exact ODE map and the exact moments of a Gaussian, on three schedules."""

import pytest
import torch
from exact import Between, ContinuousVP, Exploding, Flow, moments, noise, slope

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.ancestral import Ancestral
from diffusion.sampler.angular import integrate
from diffusion.sampler.ddim import DDIM
from diffusion.sampler.deis import DEIS
from diffusion.sampler.dpm_solver_2 import DPMSolver2
from diffusion.sampler.dpm_solver_3 import DPMSolver3
from diffusion.sampler.dpm_solver_fast import DPMSolverFast
from diffusion.sampler.dpm_solver_m import DPMSolverM
from diffusion.sampler.dpm_solver_pp_2m import DPMSolverPP2M
from diffusion.sampler.dpm_solver_pp_2m_sde import DPMSolverPP2MSDE
from diffusion.sampler.dpm_solver_pp_2s import DPMSolverPP2S
from diffusion.sampler.dpm_solver_pp_3m import DPMSolverPP3M
from diffusion.sampler.dpm_solver_pp_3s import DPMSolverPP3S
from diffusion.sampler.euler import Euler
from diffusion.sampler.euler_maruyama import EulerMaruyama
from diffusion.sampler.heun import Heun
from diffusion.sampler.lms import LMS
from diffusion.sampler.pndm import PNDM
from diffusion.sampler.restart import Restart
from diffusion.sampler.reverse_diffusion import ReverseDiffusion
from diffusion.sampler.rk45 import RK45
from diffusion.sampler.unipc import UniPC

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([0.3, 1.5])

INNER = {"vp": (ContinuousVP(), 0.1, 0.8), "flow": (Flow(), 0.1, 0.9), "exploding": (Exploding(), 0.15, 0.5)}
EVEN = {name: Between(*inner) for name, inner in INNER.items()}  # no end is singular here
EARLY = {name: Between(*inner, lambda t: 1 - (1 - t) ** 2) for name, inner in INNER.items()}
"""Small first steps, as those of a multistep method are of lower order."""

on_three_schedules = pytest.mark.parametrize("schedule", EVEN.values(), ids=EVEN.keys())

DETERMINISTIC = {
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "dpm_solver_2": DPMSolver2,
    "dpm_solver_3": DPMSolver3,
    "dpm_solver_pp_2s": DPMSolverPP2S,
    "dpm_solver_pp_3s": DPMSolverPP3S,
    "dpm_solver_pp_2m": DPMSolverPP2M,
    "dpm_solver_pp_3m": DPMSolverPP3M,
    "dpm_solver_pp_2m_sde at eta 0": lambda n: DPMSolverPP2MSDE(n, eta=0.0),
    "pndm": PNDM,
    "plms": lambda n: PNDM(n, start="improved_euler"),
    "restart without intervals": lambda n: Restart(n, intervals=[]),
} | {
    f"{make.__name__} {k}": lambda n, make=make, name=name, k=k: make(n, **{name: k})
    for make, name, ks in [(DEIS, "order", (1, 2, 3, 4)), (LMS, "order", (1, 2, 3, 4)), (UniPC, "predictor", (1, 2, 3))]
    for k in ks
}
SINGLE = (DPMSolver2, DPMSolver3, DPMSolverPP2S, DPMSolverPP3S, Heun)
DETERMINISTIC["UniPC bh1"] = lambda n: UniPC(n, variant="bh1")


@pytest.mark.parametrize("schedule", EARLY.values(), ids=EARLY.keys())
@pytest.mark.parametrize("make", DETERMINISTIC.values(), ids=DETERMINISTIC.keys())
def test_deterministic_samplers_converge_with_their_declared_order(make, schedule):
    denoiser, z = GaussianDenoiser(schedule, MEAN, STD), noise()
    exact = denoiser.transport(z * schedule.prior_std(schedule.level(1.0)), 1.0, 0.0)
    single = isinstance(make, type) and issubclass(make, SINGLE)
    steps = [60, 120] if single else [200, 400]
    errors = [float((make(n)(denoiser, z) - exact).norm()) for n in steps]
    assert slope(steps, errors) == pytest.approx(make(10).order, abs=0.3)
    assert errors[-1] < 0.03


ON_EVEN_STEPS = {
    "dpm_solver_m": (DPMSolverM, 2, [200, 400]),
    "dpm_solver_m of 2": (lambda n: DPMSolverM(n, answers=2), 2, [200, 400]),
    "dpm_solver_fast": (DPMSolverFast, 2, [120, 240]),
    "dpm_solver_fast, no last step of order 1": (DPMSolverFast, 3, [125, 251]),
    "dpm_solver_fast on the data": (lambda n: DPMSolverFast(n, predicts="data"), 2, [120, 240]),
    "... and no last step of order 1": (lambda n: DPMSolverFast(n, predicts="data"), 3, [125, 251]),
}
"""Sampler, order, steps. Small first steps make large last ones, which are the low orders of DPM-Solver-fast."""


@on_three_schedules
@pytest.mark.parametrize(("make", "order", "steps"), ON_EVEN_STEPS.values(), ids=ON_EVEN_STEPS.keys())
def test_order_on_even_steps(make, order, steps, schedule):
    denoiser, z = GaussianDenoiser(schedule, MEAN, STD), noise()
    exact = denoiser.transport(z * schedule.prior_std(schedule.level(1.0)), 1.0, 0.0)
    errors = [float((make(n)(denoiser, z) - exact).norm()) for n in steps]
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
    errors = [float((RK45(n, rtol=1e6, atol=1e6)(denoiser, z) - exact).norm()) for n in steps]
    assert slope(steps, errors) == pytest.approx(RK45.order, abs=0.8)


@on_three_schedules
def test_the_adaptive_solver_follows_its_tolerance(schedule):
    denoiser, z = GaussianDenoiser(schedule, MEAN, STD), noise()
    exact = denoiser.transport(z * schedule.prior_std(schedule.level(1.0)), 1.0, 0.0)
    for tolerance in (1e-3, 1e-5, 1e-7):
        error = float((RK45(1, rtol=tolerance, atol=tolerance)(denoiser, z) - exact).abs().max())
        assert error < 500 * tolerance


STOCHASTIC = {
    "ancestral small": Ancestral,
    "ancestral large": lambda n: Ancestral(n, variance="large"),
    "ddim 0.5": lambda n: DDIM(n, eta=0.5),
    "ddim 1": lambda n: DDIM(n, eta=1.0),
    "euler with churn": lambda n: Euler(n, churn=2.0),
    "euler_maruyama": EulerMaruyama,
    "heun with churn": lambda n: Heun(n, churn=2.0),
    "reverse_diffusion": ReverseDiffusion,
    "dpm_solver_pp_2m_sde": DPMSolverPP2MSDE,
    "dpm_solver_pp_2m_sde 0.5": lambda n: DPMSolverPP2MSDE(n, eta=0.5),
    "restart": lambda n: Restart(n, intervals=[[n // 8, 2, 0.5, 1.0]]),
}


@on_three_schedules
@pytest.mark.parametrize("make", STOCHASTIC.values(), ids=STOCHASTIC.keys())
def test_stochastic_samplers_reach_the_exact_moments_with_their_declared_weak_order(make, schedule):
    denoiser, end = GaussianDenoiser(schedule, MEAN, STD), schedule.level(0.0)
    mean, std = end.alpha * MEAN, (end.alpha**2 * STD**2 + end.sigma**2).sqrt()
    steps, errors = [80, 160], []
    for n in steps:
        got = moments(make(n), denoiser, draws=2 * n)
        errors.append(float(torch.cat((got[0] - mean, got[1] - std)).norm()))
    assert slope(steps, errors) == pytest.approx(make(10).order, abs=0.25)
    assert errors[-1] < 0.03
