"""Objectives: weightings as their papers print them, any weighting under any target, and known minima."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.network.base import Network
from diffusion.objective.base import Times, Weighting
from diffusion.objective.regression import Regression
from diffusion.objective.times.uniform import Uniform
from diffusion.objective.weighting.constant import Constant
from diffusion.objective.weighting.min_snr import MinSNR
from diffusion.objective.weighting.p2 import P2
from diffusion.parameterization.base import Parameterization
from diffusion.parameterization.epsilon import Epsilon
from diffusion.parameterization.velocity import Velocity
from diffusion.parameterization.x0 import X0
from diffusion.schedule.cosine import Cosine
from diffusion.schedule.linear import Linear
from diffusion.seeds import TRAINING, KeyedRandomness
from diffusion.types import Cond, expand

TARGETS: list[Parameterization] = [Epsilon(), X0(), Velocity()]
WEIGHTINGS: list[Weighting] = [MinSNR(), MinSNR(gamma=1.0), P2(), P2(gamma=0.5, k=2.0)]
named = {"ids": lambda part: type(part).__name__}


class Recorder(Network):
    """A fixed answer to anything: half its input, in as many channels as asked for, the input remembered."""

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self.factor = factor
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        self.x, self.label = x, label
        self.answer = torch.cat([self.gain * x] * self.factor, dim=1)
        return self.answer


class At(Times):
    """Every sample at one time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def __call__(self, denoiser, randomness) -> tuple[Tensor, None]:
        return torch.full_like(randomness.rand(), self.t), None


def keyed(count: int, step: int = 0) -> KeyedRandomness:
    return KeyedRandomness(range(count), seed=0, stream=TRAINING, step=step)


def data(count: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, 1, 3, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weighting", WEIGHTINGS, **named)
@pytest.mark.parametrize("target", TARGETS, **named)
@settings(max_examples=10, deadline=None)
@given(t=st.floats(0.01, 1.0))
def test_a_weighting_means_the_same_under_any_target(weighting: Weighting, target: Parameterization, t: float):
    """The loss is the weight on the x_0 error of the decoded output, whatever was trained."""
    x0, network = data(), Recorder()
    denoiser = NetworkDenoiser(network, Cosine(), target)
    loss = Regression(weighting, At(t))(denoiser, x0, Cond(), randomness=keyed(4))
    level = denoiser.schedule.level(t)
    said = target.decode(network.answer, network.x, level.alpha, level.sigma)
    error = (said.x0 - x0).square().flatten(1).mean(1)
    weight = weighting.on_x0(torch.tensor(2 * level.lam, dtype=torch.float64))
    torch.testing.assert_close(loss.total, weight * error, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS, **named)
def test_constant_is_the_error_of_the_target_itself(target: Parameterization):
    x0, network = data(), Recorder()
    loss = Regression(Constant(), Uniform())(
        NetworkDenoiser(network, Linear(), target), x0, Cond(), randomness=keyed(4)
    )
    torch.testing.assert_close(loss.total, loss.logs["mse"])
    alpha, sigma = (expand(c, x0) for c in (Linear().alpha(loss.t), Linear().sigma(loss.t)))
    eps = (network.x - alpha * x0) / sigma
    wanted = {"Epsilon": eps, "X0": x0, "Velocity": alpha * eps - sigma * x0}[type(target).__name__]
    torch.testing.assert_close(loss.total, (network.answer - wanted).square().mean((1, 2, 3)))


@settings(max_examples=30, deadline=None)
@given(log_snr=st.floats(-15, 15), gamma=st.floats(0.1, 20))
def test_min_snr_is_the_table_of_its_paper(log_snr: float, gamma: float):
    """Hang et al. 2023: min(SNR, g) on x_0, min(SNR, g) / SNR on eps, min(SNR, g) / (SNR + 1) on v."""
    snr, at = math.exp(log_snr), torch.tensor([log_snr], dtype=torch.float64)
    for gain, divisor in ((1.0, 1.0), (1 / snr, snr), (1 / (snr + 1), snr + 1)):
        weight = MinSNR(gamma).on_target(at, torch.tensor([gain], dtype=torch.float64))
        assert float(weight) == pytest.approx(min(snr, gamma) / divisor)


def test_p2_with_gamma_0_is_l_simple_and_with_gamma_1_on_the_noise_is_the_noise_variance():
    """Choi et al. 2022: weight 1 / (k + SNR)^gamma on eps; with k = gamma = 1 that is sigma^2 on a VP schedule."""
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    schedule = Linear()
    log_snr, gain = schedule.log_snr(t), (-schedule.log_snr(t)).exp()
    torch.testing.assert_close(P2(gamma=0.0).on_target(log_snr, gain), torch.ones_like(t))
    torch.testing.assert_close(P2().on_target(log_snr, gain), schedule.sigma(t) ** 2)


@pytest.mark.parametrize("weighting", [*WEIGHTINGS, Constant()], **named)
def test_zero_terminal_snr_has_a_finite_weight(weighting: Weighting):
    weight = weighting.on_target(torch.tensor([-math.inf]), torch.tensor([1.0]))
    assert weight.isfinite().all()
    assert (weight >= 0).all()


class Exact(Network):
    """The noise that the closed form expects, for data of standard deviation ``std``."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.denoiser = GaussianDenoiser(Linear(), 0.0, std)

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        return self.denoiser(x, (label.double() + 1) / 1000).eps


def test_the_minimum_is_the_conditional_variance():
    """With the exact denoiser, E||eps - eps^||^2 is Var(eps | x_t) = alpha^2 std^2 / (alpha^2 std^2 + sigma^2)."""
    std, level = 0.7, Linear().level(0.25)
    x0 = std * torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    denoiser = NetworkDenoiser(Exact(std), Linear(), Epsilon())
    loss = Regression(Constant(), At(0.25))(denoiser, x0, Cond(), randomness=keyed(64)).total.mean()
    variance = level.alpha**2 * std**2
    assert float(loss) == pytest.approx(variance / (variance + level.sigma**2), rel=0.02)


def test_uniform_times_are_the_knots():
    denoiser = NetworkDenoiser(Recorder(), Linear(T=7), Epsilon())
    t, importance = Uniform()(denoiser, keyed(7000))
    assert importance is None
    values, counts = (t * 7).unique(return_counts=True)
    torch.testing.assert_close(values, torch.arange(1, 8, dtype=torch.float64))
    chi2 = float(((counts - 1000) ** 2 / 1000).sum())
    assert chi2 < 22.5  # the 0.999 quantile of 6 degrees of freedom


def test_the_loss_is_of_the_sample_and_not_of_its_batch():
    x0, denoiser = data(6), NetworkDenoiser(Recorder(), Cosine(), Velocity())
    objective = Regression(MinSNR(), Uniform())
    whole = objective(denoiser, x0, Cond(), randomness=keyed(6))
    part = objective(denoiser, x0[4:], Cond(), randomness=KeyedRandomness([4, 5], seed=0, stream=TRAINING, step=0))
    torch.testing.assert_close(part.total, whole.total[4:])
    torch.testing.assert_close(part.t, whole.t[4:])


def test_without_a_source_the_global_generator_draws():
    torch.manual_seed(0)
    loss = Regression(Constant(), Uniform())(NetworkDenoiser(Recorder(), Cosine(), Epsilon()), data(), Cond())
    torch.manual_seed(0)
    again = Regression(Constant(), Uniform())(NetworkDenoiser(Recorder(), Cosine(), Epsilon()), data(), Cond())
    torch.testing.assert_close(loss.total, again.total)
    assert len(loss.t.unique()) == 4


def test_half_precision_gives_a_float32_loss():
    denoiser = NetworkDenoiser(Recorder(), Cosine(), Epsilon())
    loss = Regression(Constant(), Uniform())(denoiser, data(dtype=torch.bfloat16), Cond(), randomness=keyed(4))
    assert loss.total.dtype == torch.float32


def test_the_simple_objective_leaves_the_variance_half_alone():
    network = Recorder(factor=2)
    denoiser = NetworkDenoiser(network, Cosine(), Epsilon(learned_variance=True))
    loss = Regression(Constant(), Uniform())(denoiser, data(), Cond(), randomness=keyed(4)).total.mean()
    (gradient,) = torch.autograd.grad(loss, network.answer)
    assert gradient[:, :1].abs().min() > 0
    assert gradient[:, 1:].abs().max() == 0


@pytest.mark.parametrize("make", [lambda: MinSNR(0.0), lambda: P2(gamma=-1.0), lambda: P2(k=0.0), lambda: Uniform(1.0)])
def test_bad_numbers_name_their_key(make):
    with pytest.raises(ValueError, match=r"set objective\."):
        make()
