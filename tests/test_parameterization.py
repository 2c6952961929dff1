"""Targets: from any to any other and back, against diffusers' conversions, and where they are undefined."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.parameterization.base import Parameterization
from diffusion.parameterization.epsilon import Epsilon
from diffusion.parameterization.velocity import Velocity
from diffusion.parameterization.x0 import X0
from diffusion.schedule.linear import Linear
from diffusion.types import expand

TARGETS: list[Parameterization] = [Epsilon(), X0(), Velocity()]
angles = st.floats(0.01, math.pi / 2 - 0.01)
pairs = pytest.mark.parametrize("other", TARGETS, ids=lambda p: type(p).__name__)
ones = pytest.mark.parametrize("one", TARGETS, ids=lambda p: type(p).__name__)


def data(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, count, 2, 4, dtype=torch.float64, generator=generator)
    return x0, eps


@ones
@pairs
@settings(max_examples=20, deadline=None)
@given(angle=angles, gain=st.floats(0.1, 10))
def test_any_target_to_any_other_and_back(one: Parameterization, other: Parameterization, angle: float, gain: float):
    """One target decoded, encoded as another and decoded again is what went in, on any schedule."""
    alpha, sigma = gain * math.cos(angle), gain * math.sin(angle)
    x0, eps = data()
    x = alpha * x0 + sigma * eps
    first = one.decode(one.encode(x0, eps, alpha, sigma), x, alpha, sigma)
    second = other.decode(other.encode(first.x0, first.eps, alpha, sigma), x, alpha, sigma)
    for prediction in (first, second):
        torch.testing.assert_close(prediction.x0, x0, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(prediction.eps, eps, rtol=1e-8, atol=1e-8)


@ones
@settings(max_examples=20, deadline=None)
@given(angle=angles)
def test_a_wrong_output_still_explains_x(one: Parameterization, angle: float):
    """Whatever the network says, x = alpha x0 + sigma eps."""
    alpha, sigma = math.cos(angle), math.sin(angle)
    output, x = data()
    said = one.decode(output, x, alpha, sigma)
    torch.testing.assert_close(alpha * said.x0 + sigma * said.eps, x, rtol=1e-9, atol=1e-9)


@ones
def test_tensors_and_floats_agree(one: Parameterization):
    x0, eps = data(3)
    angle = torch.tensor([0.2, 0.8, 1.4], dtype=torch.float64)
    alpha, sigma = angle.cos(), angle.sin()
    x = expand(alpha, x0) * x0 + expand(sigma, x0) * eps
    target = one.encode(x0, eps, alpha, sigma)
    together = one.decode(target, x, alpha, sigma)
    for i in range(3):
        a, s = float(alpha[i]), float(sigma[i])
        torch.testing.assert_close(one.encode(x0[i : i + 1], eps[i : i + 1], a, s), target[i : i + 1])
        alone = one.decode(target[i : i + 1], x[i : i + 1], a, s)
        torch.testing.assert_close(alone.x0, together.x0[i : i + 1])
        torch.testing.assert_close(alone.eps, together.eps[i : i + 1])


@pytest.mark.parametrize(("one", "name"), [(Epsilon(), "epsilon"), (X0(), "sample"), (Velocity(), "v_prediction")])
@pytest.mark.parametrize("index", [1, 400, 999])
def test_decoding_is_that_of_diffusers(one: Parameterization, name: str, index: int):
    theirs = DDIMScheduler(beta_schedule="linear", prediction_type=name, clip_sample=False, steps_offset=0)
    theirs.set_timesteps(1000)
    level = Linear().level((index + 1) / 1000)
    output, x = data()
    said = theirs.step(output, index, x).pred_original_sample
    torch.testing.assert_close(one.decode(output, x, level.alpha, level.sigma).x0, said, rtol=1e-4, atol=1e-3)


def test_the_velocity_target_is_that_of_diffusers():
    theirs = DDIMScheduler(beta_schedule="linear")
    level = Linear().level(0.5)
    x0, eps = data()
    expected = theirs.get_velocity(x0, eps, torch.tensor([499] * len(x0)))
    torch.testing.assert_close(Velocity().encode(x0, eps, level.alpha, level.sigma), expected, rtol=1e-5, atol=1e-5)


def test_velocity_is_the_derivative_along_the_circle():
    """x_phi = cos(phi) x_0 + sin(phi) eps; v is its derivative (Salimans & Ho 2022, section 4), here by autograd."""
    x0, eps = data()
    phi = torch.tensor(0.7, dtype=torch.float64)
    _, derivative = torch.func.jvp(lambda p: p.cos() * x0 + p.sin() * eps, (phi,), (torch.ones_like(phi),))
    torch.testing.assert_close(Velocity().encode(x0, eps, math.cos(0.7), math.sin(0.7)), derivative)


@pytest.mark.parametrize(("make", "alpha", "sigma"), [(Epsilon, 0.0, 1.0), (X0, 1.0, 0.0)])
def test_a_target_that_says_nothing_is_refused(make: type[Parameterization], alpha: float, sigma: float):
    x0, eps = data()
    with pytest.raises(ValueError, match=f"{make.__name__} says nothing"):
        make().decode(eps, x0, alpha, sigma)


@ones
def test_learned_variance_is_the_second_half(one: Parameterization):
    learned = type(one)(learned_variance=True)
    x0, eps = data()
    raw = torch.linspace(-1, 1, x0.numel(), dtype=torch.float64).reshape(x0.shape)
    target = one.encode(x0, eps, 0.6, 0.8)
    said = learned.decode(torch.cat((target, raw), 1), 0.6 * x0 + 0.8 * eps, 0.6, 0.8)
    torch.testing.assert_close(said.x0, x0)
    assert said.var_mix is not None
    assert (float(said.var_mix.min()), float(said.var_mix.max())) == (0, 1)
    assert one.decode(target, x0, 0.6, 0.8).var_mix is None
