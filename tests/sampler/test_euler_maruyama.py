"""Euler-Maruyama: the SDE of any schedule against the papers' f and g, and the authors' steps on their own grid."""

import math

import pytest
import torch
from exact import Between, ContinuousVP, Exploding, Wiggly, noise, replay

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler.euler_maruyama import EulerMaruyamaSampler
from diffusion.sampler.reverse_diffusion import ReverseDiffusionSampler
from diffusion.schedule.base import DiscreteSchedule
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.schedule.geometric import GeometricSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.schedule.sde import drift_and_diffusion
from diffusion.schedule.sub_vp import SubVPSchedule
from diffusion.schedule.vp import VPSchedule
from diffusion.schedule.zero_snr import ZeroSNRSchedule
from diffusion.spacing.linspace import LinspaceSpacing
from diffusion.spacing.trailing import TrailingSpacing

TIMES = [1e-3, 0.01, 0.3, 0.9, 1.0]


def beta(t, low=0.1, high=20.0):
    return low + t * (high - low)


PAPERS = {
    "vp": (VPSchedule(), lambda t: (-beta(t) / 2, beta(t))),
    "sub_vp": (SubVPSchedule(), lambda t: (-beta(t) / 2, beta(t) * -math.expm1(-0.2 * t - 19.9 * t**2))),
    "ve": (GeometricSchedule(), lambda t: (0.0, 2 * math.log(5000) * (0.01 * 5000**t) ** 2)),
    "flow": (FlowSchedule(), lambda t: (-1 / (1 - t), 2 * t / (1 - t)) if t < 1 else None),
}
"""Song et al. 2021, eqs. 9, 11 and 12; a straight line by hand: d t^2 / dt + 2 t^2 / (1 - t)."""


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("name", PAPERS)
def test_f_and_g_are_the_papers(name, t):
    schedule, sde = PAPERS[name]
    if (want := sde(t)) is not None:
        assert drift_and_diffusion(schedule, t) == pytest.approx(want, rel=1e-7)


@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize(
    "schedule",
    [EDMSchedule(), ContinuousCosineSchedule(), VPSchedule(), SubVPSchedule(), GeometricSchedule()],
    ids=lambda s: type(s).__name__,
)
def test_f_and_g_are_the_derivatives_by_autograd(schedule, t):
    at = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    f = torch.autograd.grad(schedule.alpha(at).log(), at)[0] if schedule.alpha(at).requires_grad else 0.0
    growth = torch.autograd.grad(schedule.sigma(at) ** 2, at)[0]
    want = float(f), float(growth - 2 * f * schedule.sigma(at).detach() ** 2)
    assert drift_and_diffusion(schedule, t) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [LinearSchedule(), CosineSchedule(), LinearSchedule(T=10, beta_start=0.01, beta_end=0.4), CosineSchedule(20)],
)
def test_at_a_knot_of_a_table_they_are_of_its_own_beta(schedule):
    """log alpha is a line from knot to knot, so that g^2 = -2 f = -T log(1 - beta) on the side of the data."""
    for i in range(schedule.steps):
        rate = -schedule.steps * math.log1p(-float(schedule.betas[i]))
        assert drift_and_diffusion(schedule, (i + 1) / schedule.steps) == pytest.approx((-rate / 2, rate), rel=1e-6)


def test_a_long_table_is_not_averaged_over_its_knots():
    betas = torch.tensor([1e-5, 3e-5], dtype=torch.float64).repeat(10000)
    for i in (1, 10000, 19998, 19999):
        rate = -20000 * math.log1p(-float(betas[i]))
        assert drift_and_diffusion(DiscreteSchedule(betas), (i + 1) / 20000)[1] == pytest.approx(rate, rel=1e-5)


def test_a_table_whose_signal_vanishes_has_an_sde_before_its_end():
    f, variance = drift_and_diffusion(ZeroSNRSchedule(LinearSchedule()), 0.9995)
    assert f < 0 < variance < math.inf


# The steps ------------------------------------------------------------------------------------------------------------


def test_on_the_vp_sde_it_is_the_authors_predictor():
    """x + (beta x / 2 + beta score) / N + sqrt(beta / N) z at N times from 1 to 1e-3, N = 1000 (score SDE, eq. 6 with
    eq. 11), but for the step to clean data, which there is hardly another."""
    schedule, n = VPSchedule(), 1000
    denoiser = GaussianDenoiser(schedule, 0.5, 0.3)
    draws = [noise(seed=1 + k) for k in range(n)]
    seen = []
    got = EulerMaruyamaSampler(n, LinspaceSpacing())(
        denoiser, noise(), randn_like=replay(draws), on_step=lambda i, level, x, x0: seen.append(x)
    )
    x = noise()
    for k, z in enumerate(draws):
        t = 1 - (1 - 1e-3) * k / (n - 1)
        score = -denoiser(x, t).eps / schedule.level(t).sigma
        mean = x + (beta(t) * x / 2 + beta(t) * score) / n
        x = mean + math.sqrt(beta(t) / n) * z if k < n - 1 else mean
        if k < n - 1:
            assert torch.allclose(seen[k], x, rtol=1e-6, atol=1e-7)
    assert bool(((got - x).abs() < 1e-3 * denoiser(seen[-2], 1e-3).eps.abs() + 1e-5).all())


def test_on_the_ve_sde_it_is_the_papers_equation():
    """x - d sigma^2 / dt (t - s) score + sqrt(...) z (eq. 6 with eq. 9)."""
    schedule, n = GeometricSchedule(), 50
    denoiser = Wiggly(schedule)
    draws, seen = [noise(seed=1 + k) for k in range(n)], []
    EulerMaruyamaSampler(n, LinspaceSpacing())(
        denoiser, noise(), randn_like=replay(draws), on_step=lambda i, level, x, x0: seen.append(x)
    )
    x, times = 50 * noise(), LinspaceSpacing()(schedule, n)
    for k in range(n - 1):
        sigma, dt = 0.01 * 5000 ** times[k], times[k] - times[k + 1]
        variance = 2 * sigma**2 * math.log(5000) * dt
        x = x - variance / sigma * denoiser(x, times[k]).eps + math.sqrt(variance) * draws[k]
        assert torch.allclose(seen[k], x, rtol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [GeometricSchedule(), EDMSchedule(), FlowSchedule(), VPSchedule(), LinearSchedule()],
    ids=lambda s: type(s).__name__,
)
def test_no_noise_is_left_in_the_end(schedule):
    """One point of data: its samples are that point, also where sigma jumps from sigma_min to 0."""
    spacing = LinspaceSpacing() if schedule.level(1.0).alpha > 0 else (lambda schedule, steps: [0.9, 0.5, 0.1, 0.0])
    point = EulerMaruyamaSampler(20, spacing)(GaussianDenoiser(schedule, 0.7, 1e-9), noise())
    assert torch.allclose(point, torch.full_like(point, 0.7), atol=1e-6)


@pytest.mark.parametrize("schedule", [ContinuousVP(), Exploding()], ids=["vp", "exploding"])
def test_short_steps_are_those_of_reverse_diffusion(schedule):
    """Both discretise one SDE: with the same noise their distance falls with the step."""
    inner = Between(schedule, 0.2, 0.6)
    denoiser, distance = GaussianDenoiser(inner, 0.5, 0.3), []
    for n in (50, 100):
        draws = [noise(seed=1 + k) for k in range(n)]
        one, other = (
            make(n, TrailingSpacing())(denoiser, noise(), randn_like=replay(draws))
            for make in (EulerMaruyamaSampler, ReverseDiffusionSampler)
        )
        distance.append(float((one - other).abs().max()))
    assert distance[1] < 0.7 * distance[0]


def test_a_start_without_signal_is_refused():
    with pytest.raises(ValueError, match="drift is infinite where alpha is 0"):
        EulerMaruyamaSampler(10, TrailingSpacing())(GaussianDenoiser(FlowSchedule()), noise())
