"""Guidance by a measurement that takes its own steps: what is exact of it on data that are known."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.describe import describe
from diffusion.guidance.daps import DAPSGuidance
from diffusion.guidance.ddnm import DDNMGuidance
from diffusion.guidance.ddnm_plus import DDNMPlusGuidance
from diffusion.guidance.ddrm import DDRMGuidance
from diffusion.guidance.mcg import MCGGuidance
from diffusion.operator.blur import BlurOperator
from diffusion.operator.clip import ClipOperator
from diffusion.operator.downsample import DownsampleOperator
from diffusion.operator.mask import MaskOperator
from diffusion.operator.phase import PhaseOperator
from diffusion.operator.radon import RadonOperator
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule

COUNT = 20000
SCHEDULE = CosineSchedule()


def normal(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, dtype=x.dtype, generator=generator)


def pair(kind, sampler, y: float, schedule=SCHEDULE, **settings) -> Tensor:
    """Samples (N, 2) of two independent standard normal pixels, the first of which is measured."""
    mask, draw = MaskOperator(box=[0, 1, 1, 1]), normal()
    measurement = torch.tensor([[[y, 0.0]]], dtype=torch.float64)
    guided = kind(GaussianDenoiser(schedule), mask, measurement, simulate=False, **settings)
    return sampler(guided, draw(torch.empty(COUNT, 1, 1, 2, dtype=torch.float64)), randn_like=draw)[:, 0, 0]


@pytest.mark.parametrize("operator", [MaskOperator(box=[0, 0, 2, 2]), DownsampleOperator(2), BlurOperator(0.8)])
@pytest.mark.parametrize(
    "kind",
    [DDRMGuidance, partial(DDNMPlusGuidance, lost=0.0), partial(DDNMPlusGuidance, eta=None)],
    ids=["ddrm", "ddnm_plus", "ddnm_plus of the paper"],
)
@pytest.mark.parametrize(("start", "end"), [(0.9, 0.8), (0.3, 0.2), (0.04, 0.02)])
def test_one_step_keeps_the_schedules_noise_whatever_was_measured(operator, kind, start: float, end: float) -> None:
    """Data that are one known image: over the noise of measurement and state, x_s ~ N(alpha x_0, sigma^2 I)."""
    draw, noise = normal(), 0.3
    truth = draw(torch.empty(1, 1, 4, 4, dtype=torch.float64))
    clean = operator(truth.expand(COUNT, -1, -1, -1))
    y = clean + noise * draw(clean)
    guided = kind(GaussianDenoiser(SCHEDULE, truth, 0.0), operator, y, simulate=False, noise=noise)
    cur, nxt = SCHEDULE.level(start), SCHEDULE.level(end)
    x = cur.alpha * truth + cur.sigma * draw(truth.expand(COUNT, -1, -1, -1))
    guided(x, cur.t)
    reached = guided.after(x, cur, nxt, SimpleNamespace(taken=1, left=1), draw).flatten(1)
    covariance = torch.cov(reached.T) / nxt.sigma**2
    torch.testing.assert_close(reached.mean(0), nxt.alpha * truth.flatten(), rtol=0, atol=5 * nxt.sigma / COUNT**0.5)
    torch.testing.assert_close(covariance, torch.eye(16, dtype=torch.float64), rtol=0, atol=6 / COUNT**0.5)


def test_ddrm_forgets_what_it_measures_too_roughly_and_narrows_the_rest() -> None:
    """Of the linear table at 20 steps: an independent implementation measured 0.780, 0.267 and 0.794."""
    out = pair(DDRMGuidance, DDIMSampler(20), 1.0, LinearSchedule(), noise=0.5)
    assert float(out[:, 0].mean()) == pytest.approx(0.780, abs=0.02)
    assert float(out[:, 0].std()) == pytest.approx(0.267, abs=0.02)
    assert float(out[:, 1].std()) == pytest.approx(0.794, abs=0.02)
    forgotten = pair(DDRMGuidance, DDIMSampler(100), 1.0, noise=0.5, eta=1.0)
    assert float(forgotten[:, 0].mean()) == pytest.approx(0, abs=0.15), "with eta = 1 the last steps are D and noise"


def test_daps_centres_on_the_odes_end_or_on_the_mean() -> None:
    """Of standard normal data the ODE carries x / alpha to x / sqrt(alpha^2 + sigma^2), its exact transport."""
    exact, level = GaussianDenoiser(SCHEDULE), SCHEDULE.level(0.6)
    x = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(1, 1, 2, 4)
    given = (exact, MaskOperator(box=[0, 0, 1, 1]), x)
    torch.testing.assert_close(DAPSGuidance(*given, ode_steps=1)(x, level.t).x0, exact(x, level.t).x0)
    end = DAPSGuidance(*given, ode_steps=800)(x, level.t)
    torch.testing.assert_close(end.x0, exact.transport(x, level.t, 0.0), rtol=3e-3, atol=0)
    torch.testing.assert_close(level.alpha * end.x0 + level.sigma * end.eps, x)


def test_daps_keeps_the_hidden_variance_by_the_mean() -> None:
    """At every level (2 + 2 s^2 + s^4) / (2 + s^2), which tends to 1; around the ODE's end it would be 2."""
    out = pair(DAPSGuidance, DDIMSampler(60), 1.0, noise=0.05, ode_steps=1, exact=True)
    assert float(out[:, 1].var()) == pytest.approx(1, abs=0.1)
    assert float(out[:, 0].mean()) == pytest.approx(1, abs=0.02)


def test_daps_draws_from_the_product_of_both_gaussians() -> None:
    """x_0 given the centre and y, by dense algebra: covariance (I / s^2 + A^T A / noise^2)^-1."""
    operator, draw, noise = DownsampleOperator(2), normal(), 0.2
    y = torch.ones(1, 1, 2, dtype=torch.float64)
    guided = DAPSGuidance(GaussianDenoiser(SCHEDULE), operator, y, False, noise, exact=True)
    cur, clean = SCHEDULE.level(0.4), SCHEDULE.level(0.0)
    x = torch.full((COUNT, 1, 2, 4), 0.7, dtype=torch.float64)
    centre = guided(x, cur.t).x0[0].flatten()
    drawn = guided.after(x, cur, clean, SimpleNamespace(taken=1, left=0), draw).flatten(1)
    A = operator(torch.eye(8, dtype=torch.float64).reshape(8, 1, 2, 4)).flatten(1).T
    covariance = torch.linalg.inv(torch.eye(8, dtype=torch.float64) / cur.noise**2 + A.T @ A / noise**2)
    mean = covariance @ (centre / cur.noise**2 + A.T @ torch.ones(2, dtype=torch.float64) / noise**2)
    scale = float(covariance.diagonal().max())
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=5 * math.sqrt(scale / COUNT))
    torch.testing.assert_close(torch.cov(drawn.T), covariance, rtol=0, atol=7 * scale / math.sqrt(COUNT))


class Undecomposed(DownsampleOperator):
    """Means over squares, whose decomposition is not known: every step of the dynamics is taken."""

    decomposed = False


@pytest.mark.parametrize("operator", [DownsampleOperator(2), Undecomposed(2), BlurOperator(0.8)])
def test_daps_draws_what_its_langevin_dynamics_reach(operator) -> None:
    """Mean and covariance of x_0 after 5 steps, each taken by dense algebra."""
    draw, tau, rate, steps = normal(), 0.3, 0.02, 5
    y = operator(torch.ones(1, 1, 2, 4, dtype=torch.float64))
    settings = {"ode_steps": 1, "langevin_steps": steps, "langevin_rate": rate, "tau": tau}
    guided = DAPSGuidance(GaussianDenoiser(SCHEDULE), operator, y, False, **settings)
    cur, clean = SCHEDULE.level(0.4), SCHEDULE.level(0.0)
    x = torch.full((COUNT, 1, 2, 4), 0.7, dtype=torch.float64)
    centre = guided(x, cur.t).x0[0].flatten()
    drawn = guided.after(x, cur, clean, SimpleNamespace(taken=1, left=1), draw).flatten(1)
    A = operator(torch.eye(8, dtype=torch.float64).reshape(8, 1, 2, 4)).flatten(1).T
    mean, covariance = centre, torch.zeros(8, 8, dtype=torch.float64)
    kept = torch.eye(8, dtype=torch.float64) * (1 - rate / cur.noise**2) - rate * A.T @ A / tau**2
    for _ in range(steps):
        mean = kept @ mean + rate * (centre / cur.noise**2 + A.T @ y.flatten() / tau**2)
        covariance = kept @ covariance @ kept.T + 2 * rate * torch.eye(8, dtype=torch.float64)
    scale = float(covariance.diagonal().max())
    torch.testing.assert_close(drawn.mean(0), mean, rtol=0, atol=5 * math.sqrt(scale / COUNT))
    torch.testing.assert_close(torch.cov(drawn.T), covariance, rtol=0, atol=7 * scale / math.sqrt(COUNT))


def test_ddnm_plus_has_less_noise_where_a_blur_leaves_nothing() -> None:
    """Of the code: eta^2 of the level's variance in the frequencies of which the blur leaves less than ``lost``."""
    draw, x0, operator = normal(), torch.zeros(1, 1, 4, 4, dtype=torch.float64), BlurOperator(1.0)
    cur, nxt, point = SCHEDULE.level(0.3), SCHEDULE.level(0.2), torch.zeros_like(x0)
    point[..., 0, 0] = 1
    left = torch.fft.fft2(operator(point)).abs().flatten()
    guided = DDNMPlusGuidance(GaussianDenoiser(SCHEDULE, x0, 0.0), operator, operator(x0), False, 0.05, lost=0.1)
    x = cur.sigma * draw(x0.expand(COUNT, -1, -1, -1))
    guided(x, cur.t)
    reached = guided.after(x, cur, nxt, SimpleNamespace(taken=1, left=1), draw) / nxt.sigma
    power = torch.fft.fft2(reached, norm="ortho").abs().square().mean((0, 1)).flatten()
    assert 0 < int((left < 0.1).sum()) < 16
    torch.testing.assert_close(power[left < 0.1], torch.full_like(power[left < 0.1], 0.85**2), rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", [DDNMGuidance, DDNMPlusGuidance])
def test_records_tell_the_papers_steps_from_those_without_fresh_noise(kind) -> None:
    given = (GaussianDenoiser(SCHEDULE), MaskOperator(box=[0, 0, 1, 1]), torch.zeros(1, 1, 4, 4))
    assert [describe(kind(*given, eta=eta))["eta"] for eta in (None, 0.0, 0.85)] == [None, 0.0, 0.85]


def test_ddnm_steps_by_what_was_put_right_and_the_networks_own_eps() -> None:
    """From one x: mean alpha (D + A^+ (y - A D)) + sigma sqrt(1 - eta^2) eps, and deviation eta sigma."""
    draw, operator, eta = normal(), DownsampleOperator(2), 0.6
    y, denoiser = torch.tensor([[[1.0, -0.5], [0.2, 2.0]]], dtype=torch.float64), GaussianDenoiser(SCHEDULE, 0.3, 0.8)
    guided = DDNMGuidance(denoiser, operator, y, simulate=False, eta=eta)
    cur, nxt = SCHEDULE.level(0.5), SCHEDULE.level(0.4)
    one = draw(torch.empty(1, 1, 4, 4, dtype=torch.float64))
    predicted = denoiser(one, cur.t)
    A = operator(torch.eye(16, dtype=torch.float64).reshape(16, 1, 4, 4)).flatten(1).T
    right = predicted.x0.flatten() + torch.linalg.pinv(A) @ (y.flatten() - A @ predicted.x0.flatten())
    x = one.expand(COUNT, -1, -1, -1)
    guided(x, cur.t)
    reached = guided.after(x, cur, nxt, SimpleNamespace(taken=1, left=1), draw).flatten(1)
    mean = nxt.alpha * right + nxt.sigma * math.sqrt(1 - eta**2) * predicted.eps.flatten()
    torch.testing.assert_close(reached.mean(0), mean, rtol=0, atol=5 * nxt.sigma / COUNT**0.5)
    torch.testing.assert_close(
        torch.cov(reached.T) / (eta * nxt.sigma) ** 2, torch.eye(16, dtype=torch.float64), rtol=0, atol=6 / COUNT**0.5
    )
    ended = DDIMSampler(10)(DDNMGuidance(denoiser, operator, y, simulate=False), x[:50], randn_like=draw)
    torch.testing.assert_close(operator(ended), y.expand(50, -1, -1, -1))


def test_the_rate_of_daps_falls_as_in_its_code() -> None:
    """1 - 0.99 i / (N + 1) of it at level i of N."""
    rates: list[float] = []

    class Noted(DAPSGuidance):
        def _langevin(self, centre, y, spread, rate, randn_like):
            rates.append(rate)
            return centre

    guided = Noted(GaussianDenoiser(SCHEDULE), DownsampleOperator(2), torch.zeros(1, 2, 2).double(), False)
    guided.langevin_rate, x = 1.0, torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    DDIMSampler(4)(guided, x, randn_like=normal())
    assert rates == pytest.approx([1 - 0.99 * i / 5 for i in range(4)])


def test_daps_bears_directions_of_which_nothing_is_left() -> None:
    """In float32, at a level of little signal: steps that move a direction by 10^-9 of itself."""
    draw, x = normal(), torch.zeros(2, 1, 16, 16)
    guided = DAPSGuidance(GaussianDenoiser(SCHEDULE), BlurOperator(1.5), torch.zeros(1, 16, 16), False)
    level = SCHEDULE.level(SCHEDULE.time(100.0))
    guided(x, level.t)
    assert guided.after(x, level, SCHEDULE.level(0.5), SimpleNamespace(taken=1, left=9), draw).isfinite().all()


@pytest.mark.parametrize("operator", [ClipOperator(2.0), PhaseOperator(1.5)])
def test_daps_explains_what_is_not_linear(operator) -> None:
    draw = normal()
    truth = 0.8 * draw(torch.empty(64, 1, 2, 2, dtype=torch.float64)) + 0.3
    y = operator(truth)
    guided = DAPSGuidance(
        GaussianDenoiser(SCHEDULE, 0.3, 0.8),
        operator,
        y,
        False,
        0.1,
        ode_steps=3,
        langevin_steps=40,
        langevin_rate=2e-3,
        tau=None,
    )
    free = DDIMSampler(15)(GaussianDenoiser(SCHEDULE, 0.3, 0.8), draw(truth))
    out = DDIMSampler(15)(guided, draw(truth), randn_like=draw)
    assert (operator(out) - y).square().mean() < 0.3 * (operator(free) - y).square().mean()


def test_mcg_ends_on_the_measurement_and_leaves_independent_pixels_alone() -> None:
    out = pair(MCGGuidance, AncestralSampler(100), 1.0, scale=1e-9)
    torch.testing.assert_close(out[:, 0], torch.ones(COUNT, dtype=torch.float64))
    assert float(out[:, 1].mean()) == pytest.approx(0, abs=0.04)
    assert float(out[:, 1].var()) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda *given: DDRMGuidance(*given, eta=1.5), r"guidance\.ddrm"),
        (lambda *given: DDNMPlusGuidance(*given, noise=0.0), r"guidance\.ddnm_plus\.noise"),
        (lambda *given: DDNMPlusGuidance(*given, lost=-0.1), r"guidance\.ddnm_plus\.lost"),
        (lambda *given: DDNMGuidance(*given, eta=1.5), r"eta lies in \[0, 1\], or is null .*guidance\.ddnm\.eta"),
        (lambda *given: DAPSGuidance(*given, ode_steps=0), r"guidance\.daps"),
        (lambda *given: DAPSGuidance(*given, tau=0.0), r"guidance\.daps\.tau"),
        (lambda d, _, y: DAPSGuidance(d, ClipOperator(2.0), y, exact=True), r"guidance\.daps\.exact=false"),
        (lambda *given: MCGGuidance(*given, scale=-1.0), r"guidance\.mcg\.scale"),
        (lambda *given: DDRMGuidance(*given)(given[2], torch.tensor([0.5])), "all samples at one time"),
    ],
)
def test_settings_that_no_method_has_are_refused(make, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make(GaussianDenoiser(SCHEDULE), MaskOperator(box=[0, 0, 1, 1]), torch.zeros(1, 1, 4, 4))


def test_an_operator_without_a_decomposition_is_named() -> None:
    denoiser, x = GaussianDenoiser(SCHEDULE), torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    guided = DDRMGuidance(denoiser, RadonOperator(3), x)
    with pytest.raises(ValueError, match="RadonOperator has no singular value decomposition"):
        DDIMSampler(4)(guided, x, randn_like=normal())
