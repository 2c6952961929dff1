"""Denoisers: what the network is told, and the Gaussian's closed form against Monte Carlo and autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.network.base import Network
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.parameterization.x0 import X0Parameterization
from diffusion.schedule.base import DiscreteSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.types import Cond


class Recorder(Network):
    """Answers with its input and remembers how it was called."""

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        self.x, self.label, self.cond = x, label, cond
        return x


def test_the_network_is_told_ddpms_index() -> None:
    network = Recorder()
    denoiser = NetworkDenoiser(network, LinearSchedule(T=1000), EpsilonParameterization())
    x = torch.zeros(3, 1, 2, 2)
    denoiser(x, 1.0)
    assert network.label.tolist() == [999.0] * 3
    assert network.label.dtype == torch.float32
    denoiser(x, torch.tensor([0.001, 0.5, 1.0]))
    assert network.label.tolist() == pytest.approx([0, 499, 999], abs=1e-4)
    denoiser(x, torch.tensor(0.5, dtype=torch.float64))
    assert network.label.tolist() == [499.0] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_state_keeps_its_dtype(dtype: torch.dtype) -> None:
    network = Recorder()
    denoiser = NetworkDenoiser(network, CosineSchedule(), VelocityParameterization())
    x = torch.ones(2, 1, 2, 2, dtype=dtype)
    for t in (0.3, torch.tensor([0.3, 0.9])):
        said = denoiser(x, t)
        assert said.x0.dtype == said.eps.dtype == dtype
    assert network.label.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)


@pytest.mark.parametrize(
    "parameterization", [EpsilonParameterization(), X0Parameterization(), VelocityParameterization()]
)
def test_float_and_tensor_times_agree(parameterization) -> None:
    denoiser = NetworkDenoiser(Recorder(), CosineSchedule(), parameterization)
    x = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (0.05, 0.6, 1.0):
        one, other = denoiser(x, t), denoiser(x, torch.full((2,), t, dtype=torch.float64))
        torch.testing.assert_close(one.x0, other.x0)
        torch.testing.assert_close(one.eps, other.eps)


def test_zero_terminal_snr_refuses_epsilon_only() -> None:
    schedule = DiscreteSchedule(torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="parameterization=velocity"):
        NetworkDenoiser(Recorder(), schedule, EpsilonParameterization())
    x = torch.ones(1, 1, 2, 2)
    for parameterization in (X0Parameterization(), VelocityParameterization()):
        assert NetworkDenoiser(Recorder(), schedule, parameterization)(x, 1.0).x0.isfinite().all()


@pytest.mark.parametrize("t", [0.0, 0.02, 0.4, 0.9, 1.0])
def test_the_gaussians_score_is_that_of_its_marginal(t: float) -> None:
    """E[eps | x] = -sigma grad log p_t(x), the gradient by autograd through torch's own normal density."""
    schedule, mean, std = CosineSchedule(), torch.tensor([0.3, -1.2]), torch.tensor([0.5, 2.0])
    denoiser, level = GaussianDenoiser(schedule, mean, std), schedule.level(t)
    x = torch.tensor([[0.1, 0.7], [-2.0, 3.0]], dtype=torch.float64, requires_grad=True)
    marginal = torch.distributions.Normal(
        level.alpha * mean.double(), (level.alpha**2 * std.double() ** 2 + level.sigma**2).sqrt()
    )
    (score,) = torch.autograd.grad(marginal.log_prob(x).sum(), x)
    said = denoiser(x.detach(), t)
    torch.testing.assert_close(said.eps, -level.sigma * score)
    torch.testing.assert_close(level.alpha * said.x0 + level.sigma * said.eps, x.detach())


def test_the_gaussians_mean_is_the_best_guess() -> None:
    """Least squares of x_0 on x_t over many draws gives the slope of E[x_0 | x_t]."""
    schedule = LinearSchedule()
    denoiser, level = GaussianDenoiser(schedule, 0.4, 1.5), schedule.level(0.3)
    generator = torch.Generator().manual_seed(0)
    x0 = 0.4 + 1.5 * torch.randn(200_000, dtype=torch.float64, generator=generator)
    x = level.alpha * x0 + level.sigma * torch.randn(200_000, dtype=torch.float64, generator=generator)
    slope = float(((x - x.mean()) * (x0 - x0.mean())).mean() / x.var())
    said = denoiser(torch.tensor([[0.0], [1.0]], dtype=torch.float64), 0.3).x0
    assert float(said[1] - said[0]) == pytest.approx(slope, abs=0.01)
    assert float(denoiser(x.unsqueeze(1), 0.3).x0.mean()) == pytest.approx(0.4, abs=0.02)


def test_transport_keeps_quantiles() -> None:
    """The flow carries mean + 2 spreads at one time to mean + 2 spreads at another, and back."""
    schedule = CosineSchedule()
    denoiser = GaussianDenoiser(schedule, 0.4, 1.5)
    clean = torch.tensor([[0.4 + 2 * 1.5]], dtype=torch.float64)
    noisy = denoiser.transport(clean, 0.0, 0.7)
    level = schedule.level(0.7)
    expected = level.alpha * 0.4 + 2 * (level.alpha**2 * 1.5**2 + level.sigma**2) ** 0.5
    assert float(noisy) == pytest.approx(expected)
    torch.testing.assert_close(denoiser.transport(noisy, 0.7, 0.0), clean)
