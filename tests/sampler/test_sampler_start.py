"""Samplers that start anywhere, go back and jump: held to the exact flow of a Gaussian."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import CONF, SAMPLERS, from_config, slope
from omegaconf import OmegaConf

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.network.mlp import MLP
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.sampler import (
    ConsistencySampler,
    DDIMSampler,
    EulerSampler,
    FlowMapSampler,
    HeunSampler,
    LMSSampler,
    PNDMSampler,
    RestartSampler,
    RK45Sampler,
    Sampler,
)
from diffusion.sampler.exponential import (
    DEISSampler,
    DPMSolver2Sampler,
    DPMSolver3Sampler,
    DPMSolverFastSampler,
    DPMSolverMSampler,
    DPMSolverPP2MSampler,
    DPMSolverPP2MSDESampler,
    DPMSolverPP2SSampler,
    DPMSolverPP3MSampler,
    DPMSolverPP3SSampler,
    DPMSolverV3Sampler,
    UniPCSampler,
)
from diffusion.schedule import CosineSchedule, EDMSchedule, Schedule, VPSchedule
from diffusion.spacing import LogSNRSpacing
from diffusion.spacing.base import Spacing
from diffusion.types import Cond

MEAN, STD = torch.tensor([0.3, -0.2, 1.0]), torch.tensor([0.5, 0.8, 0.2])
WITHOUT_STATISTICS = [p for p in sorted((CONF / "sampler").glob("*.yaml")) if p.stem != "dpm_solver_v3"]
SOLVERS = [
    EulerSampler, HeunSampler, DDIMSampler, LMSSampler, DPMSolver2Sampler, DPMSolver3Sampler, DPMSolverMSampler,
    DPMSolverPP2MSampler, DPMSolverPP2SSampler, DPMSolverPP3MSampler, DPMSolverPP3SSampler, DEISSampler, UniPCSampler,
    DPMSolverV3Sampler, partial(DPMSolverPP2MSDESampler, eta=0.0), partial(RestartSampler, intervals=[]),
]  # fmt: skip
ON_EVEN_STEPS = [
    PNDMSampler, partial(PNDMSampler, start="improved_euler"), DPMSolverFastSampler,
    partial(DPMSolverFastSampler, predicts="data"),
]  # fmt: skip
NO_SOLVER = {"ancestral", "consistency", "euler_maruyama", "flow_map", "predictor_corrector", "reverse_diffusion"}
"""Files of samplers that draw noise with any settings, or jump to where no ODE is followed."""
Make = Callable[..., Sampler]


def data() -> torch.Tensor:
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def relative(x: torch.Tensor, exact: torch.Tensor) -> float:
    return float((x - exact).norm() / exact.norm())


class Counting(GaussianDenoiser):
    """Notes every time that it is called at."""

    def __init__(self) -> None:
        super().__init__(VPSchedule(), MEAN, STD)
        self.times: list[float] = []

    def __call__(self, x, t, cond=Cond()):  # noqa: B008
        self.times.append(float(t))
        return super().__call__(x, t, cond)

    def jump(self, x, t, s, cond=Cond()):  # noqa: B008
        self.times.append(float(t))
        return super().jump(x, t, s, cond)


class FromLow(Spacing):
    """Steps that grow upwards (or are even, power 1) from one cleanest time, the same for any number of them."""

    def __init__(self, low: float, power: int = 2) -> None:
        self.low, self.power = low, power

    def __call__(self, schedule, steps):
        n = steps - 1
        return [self.low + (1 - self.low) * ((n - i) / n) ** self.power for i in range(steps)] + [0.0]


VP, EDM = (VPSchedule(), 0.02), (EDMSchedule(), 0.2)


@pytest.mark.parametrize(
    ("kind", "schedule", "low", "power"),
    [(kind, *at, 2) for kind in SOLVERS for at in (VP, EDM)] + [(kind, *EDM, 1) for kind in ON_EVEN_STEPS],
)
def test_inversion_has_the_solvers_order(kind: Make, schedule: Schedule, low: float, power: int) -> None:
    """Against the exact flow from the cleanest level on: the step to it from clean data does not depend on n."""
    denoiser, x0, steps = GaussianDenoiser(schedule, MEAN, STD), data(), [160, 320]
    errors = []
    for n in steps:
        sampler = kind(n, FromLow(low, power))
        exact = denoiser.transport(sampler.invert(denoiser, x0, to=low), low, 0.8)
        errors.append(relative(sampler.invert(denoiser, x0, to=0.8), exact))
    assert slope(steps, errors) == pytest.approx(kind(4).order, abs=0.3)
    assert errors[-1] < 0.2


@pytest.mark.parametrize("schedule", [VPSchedule(), EDMSchedule()], ids=["vp", "edm"])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7])
def test_the_black_box_solver_inverts_to_its_tolerance(tolerance: float, schedule: Schedule) -> None:
    """In one step or in several, against the exact flow from where it begins after clean data."""
    denoiser, x0 = GaussianDenoiser(schedule, MEAN, STD), data()
    for steps in (1, 5):
        sampler = RK45Sampler(steps, rtol=tolerance, atol=tolerance, end=0.01)
        exact = denoiser.transport(sampler.invert(denoiser, x0, to=0.01), 0.01, 0.8)
        assert relative(sampler.invert(denoiser, x0, to=0.8), exact) < 500 * tolerance


@pytest.mark.parametrize("final", [False, True])
def test_low_orders_at_the_end_do_not_stop_the_way_back(final: bool) -> None:
    denoiser, x0 = GaussianDenoiser(VPSchedule(), MEAN, STD), data()
    x = DPMSolverV3Sampler(40, LogSNRSpacing(), lower_order_final=final).invert(denoiser, x0, to=0.6)
    torch.testing.assert_close(x, denoiser.transport(x0, 0.0, 0.6), rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("kind", SOLVERS)
def test_sampling_undoes_inversion(kind: Make) -> None:
    denoiser, x0 = GaussianDenoiser(VPSchedule(), MEAN, STD), data()
    errors = [
        float((sampler(denoiser, sampler.invert(denoiser, x0)) - x0).abs().max())
        for sampler in (kind(n, LogSNRSpacing()) for n in (20, 80))
    ]
    assert errors[1] < max(0.5 * errors[0], 2e-3)  # the last step to clean data has an error of its own


def test_inversion_to_a_time_is_the_state_there() -> None:
    denoiser, x0 = GaussianDenoiser(VPSchedule(), MEAN, STD), data()
    x = HeunSampler(100, LogSNRSpacing()).invert(denoiser, x0, to=0.6)
    torch.testing.assert_close(x, denoiser.transport(x0, 0.0, 0.6), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("path", SAMPLERS, ids=lambda p: p.stem)
def test_every_sampler_inverts_or_names_the_setting_that_would(path: Path) -> None:
    """What draws noise has no inverse; with the setting that the error names it draws none, and has one."""
    denoiser, x0 = GaussianDenoiser(VPSchedule(), MEAN, STD), data()

    def draws(sampler: Sampler) -> bool:
        drawn: list[torch.Tensor] = []
        sampler(denoiser, x0, randn_like=lambda v: drawn.append(v) or torch.zeros_like(v))
        return bool(drawn)

    settings: dict[str, Any] = {"steps": 80} | ({"churn": 4.0} if path.stem in ("euler", "heun") else {})
    sampler = from_config(path, **settings)
    if draws(sampler) or path.stem in NO_SOLVER:
        with pytest.raises(ValueError, match="has no inverse") as raised:
            sampler.invert(denoiser, x0)
        setting = re.search(r"set sampler\.(\w+)=(\S+)$", str(raised.value))
        assert (setting is None) == (path.stem in NO_SOLVER)
        if setting is None:
            return
        sampler = from_config(path, **settings | {setting[1]: OmegaConf.create(f"v: {setting[2]}").v})
    assert not draws(sampler)
    assert relative(sampler.invert(denoiser, x0, to=0.5), denoiser.transport(x0, 0.0, 0.5)) < 0.12


@pytest.mark.parametrize("path", WITHOUT_STATISTICS, ids=lambda p: p.stem)
def test_every_sampler_starts_anywhere_and_pays_for_the_rest_only(path: Path) -> None:
    """Started at t = 0.4 with known noise, a deterministic sampler follows the exact flow from there; all visit times
    up to 0.4 only, and give samples of the Gaussian's width."""
    sampler = from_config(path, steps=40)
    whole, part = Counting(), Counting()
    noise = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sampler(whole, noise)
    x = sampler(part, noise, start=(data(), 0.4))
    assert max(part.times) <= 0.4 + 1e-6 or sampler_raises_levels(path.stem)
    assert len(part.times) < len(whole.times)
    if sampler.invertible:
        level = part.schedule.level(0.4)
        wanted = part.transport(level.alpha * data() + level.sigma * noise, 0.4, 0.0)
        torch.testing.assert_close(x, wanted, rtol=0, atol=0.1)
    assert x.isfinite().all()


def sampler_raises_levels(name: str) -> bool:
    return name in ("restart", "rk45")


def test_a_start_at_pure_noise_is_an_ordinary_one() -> None:
    denoiser, noise = GaussianDenoiser(CosineSchedule(1000), MEAN, STD), data()
    sampler = DDIMSampler(20)
    level = denoiser.schedule.level(1.0)
    x0 = torch.zeros_like(noise)
    again = sampler(denoiser, noise / level.sigma, start=(x0, 1.0))
    torch.testing.assert_close(again, sampler(denoiser, noise), rtol=1e-9, atol=1e-9)


def test_a_flow_map_is_exact_in_one_step_and_ddim_for_a_plain_network() -> None:
    denoiser, noise = GaussianDenoiser(VPSchedule(), MEAN, STD), data()
    torch.testing.assert_close(FlowMapSampler(1)(denoiser, noise), denoiser.transport(noise, 1.0, 0.0))
    torch.manual_seed(0)
    network = NetworkDenoiser(MLP(1, 4, width=16, depth=1), CosineSchedule(100), VelocityParameterization())
    x = torch.randn(3, 1, 4, 4)
    with torch.no_grad():
        torch.nn.init.normal_(list(network.parameters())[-2], std=0.1)
    assert torch.equal(FlowMapSampler(5)(network, x), DDIMSampler(5)(network, x))
    guided = ClassifierFreeGuidance(network, scale=1.0)
    assert torch.equal(FlowMapSampler(5)(guided, x), DDIMSampler(5)(guided, x))


def test_consistency_sampling_of_an_exact_map_draws_the_gaussian() -> None:
    """x_0 of any step is a draw of N(mean, std^2), whatever the times."""
    denoiser = GaussianDenoiser(VPSchedule(), MEAN, STD)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(40_000, 3, dtype=torch.float64, generator=generator)
    sampler = ConsistencySampler(3, times=[1.0, 0.6, 0.2])
    x = sampler(denoiser, noise, randn_like=lambda v: torch.randn(v.shape, dtype=v.dtype, generator=generator))
    torch.testing.assert_close(x.mean(0), MEAN.double(), rtol=0, atol=0.02)
    torch.testing.assert_close(x.std(0), STD.double(), rtol=0.02, atol=0)
    with pytest.raises(ValueError, match=r"sampler\.times"):
        ConsistencySampler(2, times=[0.2, 0.6])
