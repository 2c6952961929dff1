"""Schedules against diffusers' tables, their own algebra, and the labels of DDPM."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion.parameterization.edm import EDMParameterization
from diffusion.schedule.base import FIRST, DiscreteSchedule, Schedule, VariancePreservingSchedule
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.schedule.geometric import GeometricSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.schedule.scaled_linear import ScaledLinearSchedule
from diffusion.schedule.sigmoid import SigmoidSchedule
from diffusion.schedule.sub_vp import SubVPSchedule
from diffusion.schedule.table import TableSchedule
from diffusion.schedule.trig import TrigSchedule
from diffusion.schedule.vp import VPSchedule
from diffusion.schedule.zero_snr import ZeroSNRSchedule

TABLES = [
    (LinearSchedule(), {"beta_schedule": "linear"}),
    (
        LinearSchedule(T=40, beta_start=1e-3, beta_end=0.3),
        {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.3},
    ),
    (ScaledLinearSchedule(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    (SigmoidSchedule(), {"beta_schedule": "sigmoid"}),
    (CosineSchedule(), {"beta_schedule": "squaredcos_cap_v2"}),
    (CosineSchedule(T=25), {"beta_schedule": "squaredcos_cap_v2"}),
]
CONF = Path(__file__).parents[2] / "conf"
CONTINUOUS = [
    GeometricSchedule(),
    EDMSchedule(),
    EDMSchedule(sigma_min=0.1, sigma_max=3.0, rho=1.0),
    VPSchedule(),
    VPSchedule(beta_min=1.0, beta_max=1.0),
    SubVPSchedule(),
    ContinuousCosineSchedule(),
    ContinuousCosineSchedule(resolution=512),
    ContinuousCosineSchedule(resolution=8, log_snr_min=-math.inf),
    FlowSchedule(),
    FlowSchedule(shift=3.0),
    TrigSchedule(),
    TrigSchedule(sigma_data=1.0, sigma_max=9.0),
]
ZEROED = [
    ZeroSNRSchedule(LinearSchedule()),
    ZeroSNRSchedule(ScaledLinearSchedule()),
    ZeroSNRSchedule(CosineSchedule(T=20)),
]
SCHEDULES: list[Schedule] = [*(schedule for schedule, _ in TABLES), *CONTINUOUS, *ZEROED]
times = st.floats(0.0, 1.0)


def grid(count: int = 301) -> Tensor:
    return torch.linspace(0, 1, count, dtype=torch.float64)


@pytest.mark.parametrize(("schedule", "theirs"), TABLES)
def test_betas_are_those_of_diffusers(schedule: DiscreteSchedule, theirs: dict) -> None:
    """Theirs are float32, hence the tolerance."""
    table = DDPMScheduler(num_train_timesteps=schedule.steps, **theirs)
    torch.testing.assert_close(schedule.betas, table.betas.double(), rtol=2e-4, atol=1e-6)
    knots = torch.arange(1, schedule.steps + 1, dtype=torch.float64) / schedule.steps
    torch.testing.assert_close(schedule.alpha(knots) ** 2, table.alphas_cumprod.double(), rtol=5e-4, atol=1e-7)


def test_ddpm_ends_where_its_paper_says() -> None:
    """Ho et al. 2020, section 4: D_KL(q(x_T | x_0) || N(0, I)) is about 1e-5 bits per dimension, data in [-1, 1]."""
    end = LinearSchedule().level(1.0)
    variance, square_mean = end.sigma**2, end.alpha**2 / 3  # x_0 uniform in [-1, 1]
    bits = 0.5 * (variance - 1 - math.log(variance) + square_mean) / math.log(2)
    assert 3e-6 < bits < 3e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_process_goes_from_data_to_noise(schedule: Schedule) -> None:
    t = grid()
    alpha, sigma, log_snr = schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t)
    assert alpha.dtype == sigma.dtype == torch.float64
    assert (alpha[0], sigma[0]) == (1, 0)
    assert (log_snr[1:] < log_snr[:-1]).all()
    torch.testing.assert_close(log_snr[1:], 2 * (alpha / sigma).log()[1:], rtol=1e-9, atol=1e-9)
    if isinstance(schedule, VariancePreservingSchedule) and not isinstance(schedule, SubVPSchedule):
        torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=30, deadline=None)
@given(t=times)
def test_level_agrees_with_the_tensors_and_time_inverts_noise(schedule: Schedule, t: float) -> None:
    level, at = schedule.level(t), torch.tensor(t, dtype=torch.float64)
    assert level.alpha == pytest.approx(float(schedule.alpha(at)), rel=1e-12)
    assert level.sigma == pytest.approx(float(schedule.sigma(at)), rel=1e-9, abs=1e-15)
    if 1e-6 < level.noise < 1e6:  # closer to the data, float64 keeps too few digits of 1 - alpha^2
        assert schedule.time(level.noise) == pytest.approx(t, rel=1e-6, abs=2e-12)
        times = schedule.times(torch.tensor([level.noise], dtype=torch.float64))
        assert float(times) == pytest.approx(t, rel=1e-6, abs=2e-12)


def test_times_of_a_table_are_those_of_bisection() -> None:
    noise = torch.logspace(-6, 6, 500, dtype=torch.float64)
    for schedule in (LinearSchedule(), CosineSchedule(), ZeroSNRSchedule(LinearSchedule())):
        torch.testing.assert_close(schedule.times(noise), Schedule.times(schedule, noise), rtol=1e-9, atol=1e-9)
        t = torch.arange(1, schedule.steps, dtype=torch.float64) / schedule.steps
        levels = schedule.sigma(t) / schedule.alpha(t)
        torch.testing.assert_close(schedule.times(levels), t, rtol=1e-12, atol=1e-12)
        assert 0 < float(schedule.times(torch.zeros(1, dtype=torch.float64))) < 1e-15


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_stays_in_the_unit_interval(schedule: Schedule) -> None:
    assert schedule.time(0.0) == 0.0
    assert schedule.time(-1.0) == 0.0
    assert schedule.time(math.inf) == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("t", [-0.01, 1.01, math.nan])
def test_a_time_outside_is_refused(schedule: Schedule, t: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        schedule.level(t)


def test_label_is_the_index_of_ddpm() -> None:
    schedule = LinearSchedule(T=1000)
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    torch.testing.assert_close(schedule.c_noise(t), torch.arange(1000, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("T", [1, 3, 10, 1000, 4000])
def test_knots_are_exact(T: int) -> None:
    """i / T * T is not i in float64 for many i; the knot must be found all the same, by both paths."""
    betas = torch.linspace(1e-3, 0.3, T, dtype=torch.float64)
    schedule = DiscreteSchedule(betas)
    expected = (1 - betas).cumprod(0).sqrt()
    knots = [(i + 1) / T for i in range(T)]
    ours = schedule.alpha(torch.tensor(knots, dtype=torch.float64))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)
    assert [schedule.level(t).alpha for t in knots] == pytest.approx(ours.tolist(), rel=1e-14)


@pytest.mark.parametrize(
    ("betas", "entry"),
    [([0.1, 0.0], 1), ([0.1, -0.2, 0.3], 1), ([1.0, 0.1], 0), ([0.1, math.nan], 1), ([0.1, 1.5], 1)],
)
def test_bad_tables_name_their_entry(betas: list[float], entry: int) -> None:
    with pytest.raises(ValueError, match=f"entry {entry} "):
        DiscreteSchedule(torch.tensor(betas))


def test_bad_shapes_are_refused() -> None:
    for betas in (torch.zeros(0), torch.full((2, 2), 0.1)):
        with pytest.raises(ValueError, match="shape"):
            DiscreteSchedule(betas)


@pytest.mark.parametrize("make", [LinearSchedule, ScaledLinearSchedule, SigmoidSchedule])
def test_bad_ranges_name_their_key(make: type) -> None:
    for wrong in ({"T": 0}, {"T": 2.5}, {"beta_start": 0.0}, {"beta_start": 0.5, "beta_end": 0.1}, {"beta_end": 1.0}):
        with pytest.raises(ValueError, match=rf"schedule\.({'|'.join(wrong)})"):
            make(**wrong)


def test_bad_cosines_are_refused() -> None:
    for wrong in ({"T": -1}, {"s": -0.1}, {"beta_max": 0.0}, {"beta_max": 1.1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}"):
            CosineSchedule(**wrong)


def test_a_zeroed_table_is_that_of_diffusers() -> None:
    for ours, name, start, end in (
        (ZeroSNRSchedule(LinearSchedule()), "linear", 1e-4, 0.02),
        (ZeroSNRSchedule(ScaledLinearSchedule()), "scaled_linear", 0.00085, 0.012),
    ):
        table = DDIMScheduler(beta_schedule=name, beta_start=start, beta_end=end, rescale_betas_zero_snr=True)
        knots = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
        torch.testing.assert_close(ours.alpha(knots) ** 2, table.alphas_cumprod.double(), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("schedule", ZEROED)
def test_a_zeroed_table_ends_in_pure_noise_and_keeps_its_start(schedule: ZeroSNRSchedule) -> None:
    end, first = schedule.level(1.0), schedule.level(1 / schedule.steps)
    assert (end.alpha, end.sigma, end.noise) == (0.0, 1.0, math.inf)
    assert first.alpha == pytest.approx(schedule.table.level(1 / schedule.table.steps).alpha, rel=1e-12)
    assert schedule.time(math.inf) == 1.0


def test_zeroing_needs_a_table() -> None:
    with pytest.raises(ValueError, match="beta table, got VP"):
        ZeroSNRSchedule(VPSchedule())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_flow_is_that_of_diffusers(shift: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    schedule, t = FlowSchedule(shift), torch.arange(1000, 0, -1, dtype=torch.float64) / 1000
    torch.testing.assert_close(schedule.sigma(t), theirs.sigmas[:1000].double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(schedule.c_noise(t), theirs.timesteps.double(), rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(schedule.alpha(t), 1 - schedule.sigma(t))


def test_edms_steps_are_those_of_diffusers() -> None:
    theirs = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    theirs.set_timesteps(19)
    t = torch.linspace(1, 0, 19, dtype=torch.float64).clamp(min=FIRST)
    torch.testing.assert_close(EDMSchedule().sigma(t), theirs.sigmas[:-1].double(), rtol=1e-4, atol=1e-6)
    assert EDMSchedule().level(0.0).sigma == 0.0
    assert float(EDMSchedule().c_noise(torch.tensor(1.0))) == pytest.approx(math.log(80) / 4)  # c_noise


def test_the_geometric_levels_have_a_constant_ratio() -> None:
    schedule, t = GeometricSchedule(0.01, 50.0), grid()[1:]
    sigma = schedule.sigma(t)
    torch.testing.assert_close(sigma[1:] / sigma[:-1], torch.full_like(sigma[1:], 5000 ** (1 / 300)))
    assert (float(sigma[-1]), schedule.level(FIRST).sigma) == pytest.approx((50.0, 0.01))


def test_noise_below_the_first_level_is_the_first_level() -> None:
    for schedule in (EDMSchedule(), GeometricSchedule()):
        t = schedule.time(0.5 * schedule.sigma_min)
        assert 0 < t < 1e-9
        assert schedule.level(t).sigma == pytest.approx(schedule.sigma_min)


@pytest.mark.parametrize("schedule", [VPSchedule(), VPSchedule(0.5, 3.0)])
def test_vp_solves_its_sde(schedule: VPSchedule) -> None:
    """d log alpha / dt = -beta / 2 and d sigma^2 / dt = beta (1 - sigma^2), by autograd (Song et al. 2021, eq. 11)."""
    t = grid(20).requires_grad_()
    beta = schedule.beta_min + t.detach() * (schedule.beta_max - schedule.beta_min)
    (slope,) = torch.autograd.grad(schedule.alpha(t).log().sum(), t)
    torch.testing.assert_close(slope, -0.5 * beta)
    (growth,) = torch.autograd.grad((1 - schedule.alpha(t) ** 2).sum(), t)
    torch.testing.assert_close(growth, beta * (1 - schedule.sigma(t).detach() ** 2))


def test_sub_vp_solves_its_sde() -> None:
    """d sigma^2 / dt = g^2 - beta sigma^2 with g^2 = beta (1 - exp(-2 integral of beta)) (Song et al. 2021, eq. 14)."""
    schedule, t = SubVPSchedule(), grid(20)[1:].requires_grad_()
    beta = schedule.beta_min + t.detach() * (schedule.beta_max - schedule.beta_min)
    (growth,) = torch.autograd.grad((schedule.sigma(t) ** 2).sum(), t)
    sigma, alpha = schedule.sigma(t).detach(), schedule.alpha(t).detach()
    torch.testing.assert_close(growth, beta * (1 - alpha**4) - beta * sigma**2)


def test_the_linear_table_is_the_discrete_vp() -> None:
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    torch.testing.assert_close(VPSchedule().alpha(t), LinearSchedule().alpha(t), rtol=0.02, atol=2e-3)


def test_the_cosine_table_is_the_discrete_continuous_cosine() -> None:
    t = grid(50)[:-1]
    torch.testing.assert_close(
        ContinuousCosineSchedule(log_snr_min=-math.inf).alpha(t), CosineSchedule(s=0.0).alpha(t), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("resolution", [16, 512])
def test_the_shift_is_that_of_simple_diffusion(resolution: int) -> None:
    """log-SNR moves by 2 log(64 / d) at every u (Hoogeboom et al. 2023, eq. 3), and ends where it is told to."""
    shifted = ContinuousCosineSchedule(resolution, log_snr_min=-math.inf)
    t = grid(30)[1:-1]
    moved = shifted.log_snr(t) - ContinuousCosineSchedule(64, log_snr_min=-math.inf).log_snr(t)
    torch.testing.assert_close(moved, torch.full_like(t, 2 * math.log(64 / resolution)))
    assert 2 * ContinuousCosineSchedule(resolution).level(1.0).lam == pytest.approx(-15)
    assert shifted.level(1.0).alpha == 0.0


def test_a_table_from_a_file_is_the_table(tmp_path: Path) -> None:
    betas = LinearSchedule(T=30, beta_end=0.3).betas
    np.save(tmp_path / "betas.npy", betas.numpy())
    (tmp_path / "bar.csv").write_text(",".join(f"{v:.17g}" for v in (1 - betas).cumprod(0).tolist()))
    torch.testing.assert_close(TableSchedule(str(tmp_path / "betas.npy")).betas, betas)
    torch.testing.assert_close(TableSchedule(str(tmp_path / "bar.csv"), kind="alphas_bar").betas, betas)


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("0.1 nothing")
    (tmp_path / "rising.txt").write_text("0.5 0.6")
    (tmp_path / "broken.npy").write_text("0.5")
    for name, kind, said in (
        ("words.txt", "betas", "words.txt is not a table"),
        ("broken.npy", "betas", "broken.npy is not a table"),
        ("none.txt", "betas", "no file"),
        ("rising.txt", "alphas_bar", "entry 1"),
        ("rising.txt", "alphas", "schedule.kind"),
    ):
        with pytest.raises(ValueError, match=said):
            TableSchedule(str(tmp_path / name), kind=kind)


def test_the_circle_keeps_the_spread_of_the_data_and_is_the_cosine_at_unit_spread() -> None:
    """Lu & Song 2025: x / cos(a) is EDM's state at noise sigma_data tan(a), and EDM's target is -v / sigma_data."""
    schedule = TrigSchedule()
    t = grid()
    alpha, sigma = schedule.coefficients(t)
    torch.testing.assert_close(alpha**2 * 0.25 + sigma**2, torch.full_like(t, 0.25))
    assert schedule.level(1.0).noise == pytest.approx(80.0)
    assert float(schedule.c_noise(t)[-1]) == pytest.approx(1.5645, abs=5e-5)
    a, b = EDMParameterization().coefficients(alpha, sigma)
    torch.testing.assert_close(torch.stack((a, b)), torch.stack((sigma / 0.25, -alpha)))
    torch.testing.assert_close(
        TrigSchedule(1.0, math.exp(7.5)).alpha(t), ContinuousCosineSchedule().alpha(t), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: EDMSchedule(sigma_min=0.0), "schedule.sigma_min"),
        (lambda: EDMSchedule(rho=0.0), "schedule.rho"),
        (lambda: TrigSchedule(sigma_data=0.0), "schedule.sigma_data"),
        (lambda: GeometricSchedule(sigma_min=2.0, sigma_max=1.0), "schedule.sigma_max"),
        (lambda: VPSchedule(beta_min=-1.0), "schedule.beta_min"),
        (lambda: FlowSchedule(shift=0.0), "schedule.shift"),
        (lambda: ContinuousCosineSchedule(log_snr_min=1.0), "log_snr_min"),
    ],
)
def test_bad_numbers_name_their_key(make, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make()


@pytest.mark.parametrize("path", sorted((CONF / "schedule").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_builds(path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "betas.npy", np.full(10, 0.1))
    overrides = [f"+schedule={path.stem}", "+autoencoder.resolution=16"]
    overrides += [f"schedule.path={tmp_path}/betas.npy"] if path.stem == "table" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        schedule = instantiate(compose(overrides=overrides).schedule, _convert_="all")
    assert isinstance(schedule, Schedule)
    assert schedule.level(0.0).noise == 0 < schedule.level(0.5).noise < schedule.level(1.0).noise


def test_any_table_is_zeroed_by_name() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(overrides=["+schedule=zero_snr", "schedule@schedule.table=cosine", "schedule.table.T=20"])
    built = instantiate(cfg.schedule, _convert_="all")
    torch.testing.assert_close(built.betas, ZEROED[2].betas)
