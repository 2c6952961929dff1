"""Schedules against diffusers' tables, their own algebra, and the labels of DDPM."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion.schedule.base import DiscreteSchedule, Schedule
from diffusion.schedule.cosine import Cosine
from diffusion.schedule.linear import Linear
from diffusion.schedule.scaled_linear import ScaledLinear
from diffusion.schedule.sigmoid import Sigmoid

TABLES = [
    (Linear(), {"beta_schedule": "linear"}),
    (Linear(T=40, beta_start=1e-3, beta_end=0.3), {"beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.3}),
    (ScaledLinear(), {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    (Sigmoid(), {"beta_schedule": "sigmoid"}),
    (Cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
    (Cosine(T=25), {"beta_schedule": "squaredcos_cap_v2"}),
]
SCHEDULES: list[Schedule] = [schedule for schedule, _ in TABLES]
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
    end = Linear().level(1.0)
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
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(t), rtol=0, atol=1e-14)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=30, deadline=None)
@given(t=times)
def test_level_agrees_with_the_tensors_and_time_inverts_noise(schedule: Schedule, t: float) -> None:
    level, at = schedule.level(t), torch.tensor(t, dtype=torch.float64)
    assert level.alpha == pytest.approx(float(schedule.alpha(at)), rel=1e-12)
    assert level.sigma == pytest.approx(float(schedule.sigma(at)), rel=1e-9, abs=1e-15)
    if 1e-6 < level.noise < 1e6:  # closer to the data, float64 keeps too few digits of 1 - alpha^2
        assert schedule.time(level.noise) == pytest.approx(t, rel=1e-6)


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
    schedule = Linear(T=1000)
    t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
    torch.testing.assert_close(schedule.label(t), torch.arange(1000, dtype=torch.float64), rtol=0, atol=1e-9)


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


@pytest.mark.parametrize("make", [Linear, ScaledLinear, Sigmoid])
def test_bad_ranges_name_their_key(make: type) -> None:
    for wrong in ({"T": 0}, {"T": 2.5}, {"beta_start": 0.0}, {"beta_start": 0.5, "beta_end": 0.1}, {"beta_end": 1.0}):
        with pytest.raises(ValueError, match=rf"schedule\.({'|'.join(wrong)})"):
            make(**wrong)


def test_bad_cosines_are_refused() -> None:
    for wrong in ({"T": -1}, {"s": -0.1}, {"beta_max": 0.0}, {"beta_max": 1.1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}"):
            Cosine(**wrong)
