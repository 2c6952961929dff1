"""The variational bound against torch's distributions, the entropy of Gaussian data, and improved DDPM's gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.network.base import Network
from diffusion.objective.hybrid import HybridObjective
from diffusion.objective.regression import RegressionObjective
from diffusion.objective.time_distribution.importance import ImportanceTimeDistribution
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.objective.variational import bits_per_dim, bound, log_mass
from diffusion.objective.vlb import VLBObjective
from diffusion.objective.weighting.constant import ConstantWeighting
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.schedule.posterior import between
from diffusion.schedule.vp import VPSchedule
from diffusion.types import Cond, Prediction

STD = 0.25
GREYS = torch.arange(256, dtype=torch.float64) / 127.5 - 1


def keyed(count: int, step: int = 0) -> KeyedRandomness:
    return KeyedRandomness(range(count), seed=0, stream=TRAINING, step=step)


def images(count: int, size: int = 4) -> Tensor:
    """8-bit images of independent Gaussian pixels."""
    x = STD * torch.randn(count, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return ((x * 127.5 + 127.5).round().clamp(0, 255)) / 127.5 - 1


def entropy() -> float:
    """Bits of one pixel of :func:`images`: the entropy of a Gaussian in bins of 1 / 127.5."""
    return math.log2(STD * math.sqrt(2 * math.pi * math.e) * 127.5)


@settings(max_examples=30, deadline=None)
@given(mean=st.floats(-1.5, 1.5), std=st.floats(1e-3, 3))
def test_the_masses_of_all_greys_are_those_of_torch_and_sum_to_one(mean: float, std: float):
    log_var = torch.tensor(2 * math.log(std), dtype=torch.float64)
    masses = log_mass(GREYS, torch.full_like(GREYS, mean), log_var).exp()
    assert float(masses.sum()) == pytest.approx(1, abs=1e-9)
    normal = Normal(torch.tensor(mean, dtype=torch.float64), std)
    wanted = normal.cdf(GREYS + 1 / 255) - normal.cdf(GREYS - 1 / 255)
    torch.testing.assert_close(masses[1:-1], wanted[1:-1], rtol=0, atol=1e-9)


def test_far_tails_are_finite_and_have_gradients():
    for dtype in (torch.float32, torch.float64):
        mean = torch.tensor([-1.0, 0.9, 0.5], dtype=dtype, requires_grad=True)
        x0 = torch.tensor([1.0, -1.0, -0.5], dtype=dtype)
        log_var = torch.tensor(-12.0, dtype=dtype, requires_grad=True)
        total = log_mass(x0, mean, log_var).sum()
        total.backward()
        assert total.isfinite()
        assert mean.grad.isfinite().all()
        assert log_var.grad.isfinite()
        # far out the mass is the density's: d/dmean is about (x - mean) / var
        torch.testing.assert_close(mean.grad[2] * math.exp(-12), x0[2] - mean[2].detach(), rtol=0.05, atol=0)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("index", [1, 2, 50, 99])
def test_a_step_is_the_divergence_of_torchs_distributions(variance: str, index: int):
    """q(x_{t-1} | x_t, x_0) and p by Ho et al. 2020, eqs. 6-7, from the betas alone."""
    schedule = LinearSchedule(T=100, beta_end=0.2)
    bar = (1 - schedule.betas).cumprod(0)
    beta, now, before = float(schedule.betas[index]), float(bar[index]), float(bar[index - 1])
    x0 = images(3)
    x = math.sqrt(now) * x0 + math.sqrt(1 - now) * torch.randn_like(x0)
    guess = 0.5 * x0 + 0.1
    tilde = (1 - before) / (1 - now) * beta

    def mean(data: Tensor) -> Tensor:
        return (math.sqrt(before) * beta * data + math.sqrt(1 - beta) * (1 - before) * x) / (1 - now)

    p = Normal(mean(guess), math.sqrt(beta if variance == "large" else tilde))
    wanted = kl_divergence(Normal(mean(x0), math.sqrt(tilde)), p).flatten(1).mean(1) / math.log(2)
    t = torch.full((3,), (index + 1) / 100, dtype=torch.float64)
    torch.testing.assert_close(bound(Prediction(guess, x), schedule, x0, x, t, variance), wanted)


def test_a_batch_of_levels_is_each_alone():
    schedule = CosineSchedule(T=20)
    denoiser, x0 = GaussianDenoiser(schedule, 0.0, STD), images(20)
    t = (torch.arange(20, dtype=torch.float64) + 1) / 20
    alpha, sigma = (c.reshape(-1, 1, 1, 1) for c in (schedule.alpha(t), schedule.sigma(t)))
    x = alpha * x0 + sigma * torch.randn_like(x0)
    together = bound(denoiser(x, t), schedule, x0, x, t, "large")
    for i in range(20):
        one = slice(i, i + 1)
        alone = bound(denoiser(x[one], float(t[i])), schedule, x0[one], x[one], t[one], "large")
        torch.testing.assert_close(alone, together[one])


class ExactVariance(GaussianDenoiser):
    """The exact denoiser that also says the exact variance of a step, small + (coefficient of x_0)^2 Var(x_0 | x)."""

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        said, T = super().__call__(x, t, cond), self.schedule.steps
        cur, nxt = self.schedule.level(t), self.schedule.level(round(t * T - 1) / T)
        q = between(cur, nxt)
        small = q.small or between(self.schedule.level(2 / T), self.schedule.level(1 / T)).small
        spread = STD**2 * cur.sigma**2 / (cur.alpha**2 * STD**2 + cur.sigma**2)
        mix = math.log((q.small + q.x0**2 * spread) / small) / math.log(q.large / small)
        return Prediction(said.x0, said.eps, torch.full_like(x, mix))


def test_the_exact_model_reaches_the_entropy_and_a_fixed_variance_stays_above():
    """A Gaussian's reverse steps are Gaussian: with their exact variance the bound is the entropy, for any T."""
    x0 = images(48, 8)

    def gap(T: int, variance: str) -> float:
        said = bits_per_dim(
            ExactVariance(CosineSchedule(T=T), 0.0, STD), x0, variance=variance, randomness=keyed(48, T)
        )
        torch.testing.assert_close(said.total, said.prior + said.terms.sum(1))
        return float(said.total.mean()) - entropy()

    for T in (10, 40, 160):
        assert gap(T, "learned") == pytest.approx(0, abs=0.04)  # 3,072 pixels: a standard error of 0.013 bits
        assert min(gap(T, "small"), gap(T, "large")) > 0.1


def test_a_worse_model_pays_for_it():
    x0 = images(16)
    exact, wrong = (
        bits_per_dim(GaussianDenoiser(CosineSchedule(T=50), 0.0, std), x0, variance="large", randomness=keyed(16))
        for std in (STD, 4 * STD)
    )
    assert (wrong.total > exact.total).all()
    torch.testing.assert_close(wrong.prior, exact.prior)


def test_the_prior_is_that_of_the_last_level():
    schedule, x0 = LinearSchedule(T=20, beta_end=0.1), images(4)
    end = schedule.level(1.0)
    one = torch.tensor(1.0, dtype=torch.float64)
    wanted = kl_divergence(Normal(end.alpha * x0, end.sigma * one), Normal(0 * one, one)).flatten(1).mean(1)
    said = bits_per_dim(GaussianDenoiser(schedule, 0.0, STD), x0, variance="small", randomness=keyed(4))
    torch.testing.assert_close(said.prior, wanted / math.log(2))
    assert said.terms.shape == said.mse.shape == (4, 20)


def test_the_mixed_variance_goes_from_small_to_large():
    schedule, x0 = LinearSchedule(T=10, beta_end=0.5), images(3)
    t = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    x = 0.5 * x0 + 0.3
    for mix, variance in ((0.0, "small"), (1.0, "large")):
        said = Prediction(0.5 * x0, x, var_mix=torch.full_like(x0, mix))
        learned, fixed = (bound(said, schedule, x0, x, t, v) for v in ("learned", variance))
        torch.testing.assert_close(learned, fixed)


# Objectives ----------------------------------------------------------------------------------------------------------


class Double(Network):
    """Twice the channels, both halves trainable."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.raw = (torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (0.5, -0.2))

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        return torch.cat((self.gain * x, self.raw * torch.ones_like(x)), 1)


def gradients(objective, schedule) -> tuple[float, float, Tensor]:
    network = Double()
    denoiser = NetworkDenoiser(network, schedule, EpsilonParameterization(learned_variance=True))
    loss = objective(denoiser, images(6), Cond(), randomness=keyed(6))
    loss.total.mean().backward()
    return float(network.gain.grad), float(network.raw.grad if network.raw.grad is not None else 0.0), loss.total


def test_the_hybrid_trains_the_mean_by_mse_and_the_variance_by_the_bound():
    """Nichol & Dhariwal 2021, section 3.1: the bound does not reach the mean; 0.001 L_vlb is all the variance gets."""
    schedule = CosineSchedule(T=50)
    simple, hybrid = (
        RegressionObjective(ConstantWeighting(), UniformTimeDistribution()),
        HybridObjective(ConstantWeighting(), UniformTimeDistribution(), vlb_weight=0.001),
    )
    vlb = VLBObjective(UniformTimeDistribution(), "learned")
    (mean_simple, raw_simple, _), (mean_hybrid, raw_hybrid, _) = (gradients(o, schedule) for o in (simple, hybrid))
    mean_vlb, raw_vlb, _ = gradients(vlb, schedule)
    assert mean_hybrid == pytest.approx(mean_simple)
    assert raw_simple == 0
    assert raw_hybrid == pytest.approx(0.001 * raw_vlb)
    assert mean_vlb != pytest.approx(mean_simple)


def test_the_vlb_estimates_the_whole_chain():
    """Its mean over times is the sum of the terms that evaluation reports; here by drawing every step once."""
    schedule, x0 = CosineSchedule(T=10), images(1).expand(10, -1, -1, -1)
    denoiser = NetworkDenoiser(Double(), schedule, EpsilonParameterization(learned_variance=True))
    chain = bits_per_dim(denoiser, x0[:1].expand(400, -1, -1, -1), randomness=keyed(400)).terms.mean(0)
    stratified = VLBObjective(UniformTimeDistribution(coupling="stratified"), "learned")
    with torch.no_grad():
        totals = [stratified(denoiser, x0, Cond(), randomness=keyed(10, step)).total.mean() for step in range(400)]
    estimate = torch.stack(totals)
    assert float(estimate.mean()) == pytest.approx(
        float(chain.sum()), abs=float(4 * estimate.std() / 20) + 0.05 * float(chain.sum())
    )


def test_what_has_no_bound_is_refused():
    x0, plain = images(2), GaussianDenoiser(LinearSchedule(), 0.0, STD)
    with pytest.raises(ValueError, match="continuous"):
        bits_per_dim(GaussianDenoiser(VPSchedule(), 0.0, STD), x0, variance="small")
    with pytest.raises(ValueError, match="learned_variance=true"):
        bits_per_dim(plain, x0)
    with pytest.raises(ValueError, match="small, large or learned"):
        bits_per_dim(plain, x0, variance="medium")
    fixed = NetworkDenoiser(Double(), LinearSchedule(), EpsilonParameterization())
    for objective in (
        HybridObjective(ConstantWeighting(), UniformTimeDistribution()),
        VLBObjective(UniformTimeDistribution()),
    ):
        with pytest.raises(ValueError, match="learned_variance=true"):
            objective.check(fixed)
    VLBObjective(UniformTimeDistribution(), "small").check(fixed)
    continuous = NetworkDenoiser(Double(), VPSchedule(), EpsilonParameterization(learned_variance=True))
    for objective in (
        HybridObjective(ConstantWeighting(), UniformTimeDistribution()),
        VLBObjective(UniformTimeDistribution()),
        RegressionObjective(ConstantWeighting(), ImportanceTimeDistribution()),
    ):
        with pytest.raises(ValueError, match="continuous"):
            objective.check(continuous)
    with pytest.raises(ValueError, match=r"objective\.variance"):
        VLBObjective(UniformTimeDistribution(), "medium")
