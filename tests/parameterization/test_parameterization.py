"""Targets: from any to any other and back, against diffusers' conversions, and where they are undefined."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from diffusion.parameterization.base import Parameterization
from diffusion.parameterization.combined import CombinedParameterization
from diffusion.parameterization.edm import EDMParameterization
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.parameterization.flow import FlowParameterization
from diffusion.parameterization.posterior_mean import PosteriorMeanParameterization
from diffusion.parameterization.score import ScoreParameterization
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.parameterization.x0 import X0Parameterization
from diffusion.schedule.linear import LinearSchedule
from diffusion.schedule.posterior import between
from diffusion.schedule.vp import VPSchedule
from diffusion.types import expand

CONF = Path(__file__).parents[2] / "conf"
TARGETS: list[Parameterization] = [
    EpsilonParameterization(),
    X0Parameterization(),
    VelocityParameterization(),
    FlowParameterization(),
    EDMParameterization(),
    EDMParameterization(2.0),
    ScoreParameterization(),
]
angles = st.floats(0.01, math.pi / 2 - 0.01)
pairs = pytest.mark.parametrize("other", TARGETS, ids=lambda p: type(p).__name__)
ones = pytest.mark.parametrize("one", TARGETS, ids=lambda p: type(p).__name__)


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


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
@settings(max_examples=20, deadline=None)
@given(angle=angles, there=angles)
def test_a_mixture_is_that_of_the_parts_and_passes_over_the_data_twice(
    one: Parameterization, angle: float, there: float
):
    x0, eps = data()
    alpha, sigma = math.cos(angle), math.sin(angle)
    x = alpha * x0 + sigma * eps
    with Operations() as seen:
        said = one.decode(one.encode(x0, eps, alpha, sigma), x, alpha, sigma)
        encoded = seen.count
        mixture = said.mix(math.cos(there), math.sin(there))
        assert seen.count - encoded <= 2
        parts = said.x0, said.eps
        asked = seen.count
        assert (said.x0, said.eps) == parts
        assert seen.count == asked
    torch.testing.assert_close(mixture, math.cos(there) * x0 + math.sin(there) * eps, rtol=1e-8, atol=1e-8)
    assert torch.equal(said.mix(1.0, 0.0), said.x0)
    assert torch.equal(said.mix(0.0, 1.0), said.eps)


def test_a_prediction_with_another_part_is_a_prediction_still():
    x0, eps = data()
    said = VelocityParameterization().decode(
        VelocityParameterization().encode(x0, eps, 0.6, 0.8), 0.6 * x0 + 0.8 * eps, 0.6, 0.8
    )
    other = replace(said, x0=said.x0 + 1)
    assert torch.equal(other.x0, said.x0 + 1)
    assert torch.equal(other.eps, said.eps)
    assert torch.equal(other.mix(0.5, 0.25), 0.5 * other.x0 + 0.25 * other.eps)


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


@pytest.mark.parametrize(
    ("one", "name"),
    [
        (EpsilonParameterization(), "epsilon"),
        (X0Parameterization(), "sample"),
        (VelocityParameterization(), "v_prediction"),
    ],
)
@pytest.mark.parametrize("index", [1, 400, 999])
def test_decoding_is_that_of_diffusers(one: Parameterization, name: str, index: int):
    theirs = DDIMScheduler(beta_schedule="linear", prediction_type=name, clip_sample=False, steps_offset=0)
    theirs.set_timesteps(1000)
    level = LinearSchedule().level((index + 1) / 1000)
    output, x = data()
    said = theirs.step(output, index, x).pred_original_sample
    torch.testing.assert_close(one.decode(output, x, level.alpha, level.sigma).x0, said, rtol=1e-4, atol=1e-3)


def test_the_velocity_target_is_that_of_diffusers():
    theirs = DDIMScheduler(beta_schedule="linear")
    level = LinearSchedule().level(0.5)
    x0, eps = data()
    expected = theirs.get_velocity(x0, eps, torch.tensor([499] * len(x0)))
    torch.testing.assert_close(
        VelocityParameterization().encode(x0, eps, level.alpha, level.sigma), expected, rtol=1e-5, atol=1e-5
    )


def test_velocity_is_the_derivative_along_the_circle():
    """x_phi = cos(phi) x_0 + sin(phi) eps; v is its derivative (Salimans & Ho 2022, section 4), here by autograd."""
    x0, eps = data()
    phi = torch.tensor(0.7, dtype=torch.float64)
    _, derivative = torch.func.jvp(lambda p: p.cos() * x0 + p.sin() * eps, (phi,), (torch.ones_like(phi),))
    torch.testing.assert_close(VelocityParameterization().encode(x0, eps, math.cos(0.7), math.sin(0.7)), derivative)


@pytest.mark.parametrize(
    ("make", "alpha", "sigma"),
    [(EpsilonParameterization, 0.0, 1.0), (X0Parameterization, 1.0, 0.0), (ScoreParameterization, 0.0, 1.0)],
)
def test_a_target_that_says_nothing_is_refused(make: type[Parameterization], alpha: float, sigma: float):
    x0, eps = data()
    with pytest.raises(ValueError, match=f"{make.__name__} does not determine"):
        make().decode(eps, x0, alpha, sigma)


@ones
def test_learned_variance_is_the_second_half(one: Parameterization):
    learned = copy(one)
    learned.learned_variance = True
    x0, eps = data()
    raw = torch.linspace(-1, 1, x0.numel(), dtype=torch.float64).reshape(x0.shape)
    target = one.encode(x0, eps, 0.6, 0.8)
    said = learned.decode(torch.cat((target, raw), 1), 0.6 * x0 + 0.8 * eps, 0.6, 0.8)
    torch.testing.assert_close(said.x0, x0)
    assert said.var_mix is not None
    assert (float(said.var_mix.min()), float(said.var_mix.max())) == (0, 1)
    assert one.decode(target, x0, 0.6, 0.8).var_mix is None


@pytest.mark.parametrize("sigma_data", [0.5, 2.0])
@pytest.mark.parametrize("sigma", [0.01, 1.0, 50.0])
def test_edm_is_preconditioned_as_in_diffusers(sigma_data: float, sigma: float):
    """The network's input and the denoised output, for y = x_0 + sigma eps and, scaled, on any other schedule."""
    theirs = EDMEulerScheduler(sigma_data=sigma_data)
    output, y = data()
    ours = EDMParameterization(sigma_data)
    at = torch.tensor(sigma, dtype=torch.float64)
    wanted = theirs.precondition_outputs(y, output, at)
    for alpha in (1.0, 0.3):
        x, s = alpha * y, alpha * sigma
        torch.testing.assert_close(ours.decode(output, x, alpha, s).x0, wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            ours.input_scale(alpha, s) * x, theirs.precondition_inputs(y, at), rtol=1e-6, atol=1e-6
        )


@settings(max_examples=20, deadline=None)
@given(sigma=st.floats(0.002, 80), sigma_data=st.floats(0.1, 3))
def test_edms_target_and_input_have_unit_variance(sigma: float, sigma_data: float):
    """Karras et al. 2022, appendix B.6: for data of standard deviation sigma_data."""
    a, b = EDMParameterization(sigma_data).coefficients(1.0, sigma)
    assert a**2 * sigma_data**2 + b**2 == pytest.approx(1)
    assert EDMParameterization(sigma_data).input_scale(1.0, sigma) ** 2 * (sigma_data**2 + sigma**2) == pytest.approx(1)


def test_edm_is_minus_v_on_the_unit_circle():
    x0, eps = data()
    torch.testing.assert_close(
        EDMParameterization(1.0).encode(x0, eps, 0.6, 0.8), -VelocityParameterization().encode(x0, eps, 0.6, 0.8)
    )


def test_the_score_is_that_of_the_kernel():
    """The gradient of log N(x; alpha x_0, sigma^2) by autograd through torch's density."""
    x0, eps = data()
    x = (0.6 * x0 + 0.8 * eps).requires_grad_()
    (wanted,) = torch.autograd.grad(torch.distributions.Normal(0.6 * x0, 0.8).log_prob(x).sum(), x)
    torch.testing.assert_close(ScoreParameterization().encode(x0, eps, 0.6, 0.8), wanted)
    with pytest.raises(ValueError, match="clean data"):
        ScoreParameterization().encode(x0, eps, 1.0, 0.0)


@pytest.mark.parametrize("index", [0, 1, 2, 500, 999])
def test_the_posterior_mean_is_diffusers_step_without_its_noise(index: int):
    """DDPM's own step from x_0 is mu~ plus noise; theirs with the noise taken off, and with variance so small."""
    theirs = DDPMScheduler(beta_schedule="linear", prediction_type="sample", clip_sample=False)
    schedule = LinearSchedule()
    level = schedule.level((index + 1) / 1000)
    x0, eps = data()
    x = level.alpha * x0 + level.sigma * eps
    torch.manual_seed(0)
    stepped = theirs.step(x0, index, x).prev_sample
    torch.manual_seed(0)
    if index > 0:
        stepped = stepped - theirs._get_variance(index) ** 0.5 * torch.randn(x.shape, dtype=x.dtype)
    mean = PosteriorMeanParameterization(schedule).encode(x0, eps, level.alpha, level.sigma)
    torch.testing.assert_close(mean, stepped, rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(t=st.floats(0.001, 1.0))
def test_the_posterior_mean_is_solved_back(t: float):
    """Between the knots too, and the same from floats as from tensors."""
    target, schedule = PosteriorMeanParameterization(LinearSchedule()), LinearSchedule()
    level, (x0, eps) = schedule.level(t), data()
    x = level.alpha * x0 + level.sigma * eps
    output = target.encode(x0, eps, level.alpha, level.sigma)
    said = target.decode(output, x, level.alpha, level.sigma)
    torch.testing.assert_close(said.x0, x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said.eps, eps, rtol=1e-5, atol=1e-5)
    at = torch.full((3,), t, dtype=torch.float64)
    again = target.encode(x0, eps, schedule.alpha(at), schedule.sigma(at))
    torch.testing.assert_close(again, output, rtol=1e-6, atol=1e-6)


def test_the_posterior_mean_leads_to_the_next_knot():
    schedule = LinearSchedule(T=10, beta_start=0.05, beta_end=0.4)
    x0, eps = data()
    cur, nxt = schedule.level(0.5), schedule.level(0.4)
    step = between(cur, nxt)
    x = cur.alpha * x0 + cur.sigma * eps
    mean = PosteriorMeanParameterization(schedule).encode(x0, eps, cur.alpha, cur.sigma)
    torch.testing.assert_close(mean, step.x0 * x0 + step.x * x)
    with pytest.raises(ValueError, match="continuous"):
        PosteriorMeanParameterization(VPSchedule())


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(0, math.pi / 2), gain=st.floats(0.1, 10))
def test_a_perfect_combined_output_is_decoded_exactly_at_both_ends_too(angle: float, gain: float):
    """And any other still explains x, on any schedule."""
    alpha, sigma = gain * math.cos(angle), gain * math.sin(angle)
    x0, eps = data()
    x = alpha * x0 + sigma * eps
    said = CombinedParameterization().decode(torch.cat((x0, eps), 1), x, alpha, sigma)
    torch.testing.assert_close(said.x0, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(said.eps, eps, rtol=1e-9, atol=1e-9)
    wrong = CombinedParameterization().decode(torch.cat((eps, x), 1), x, alpha, sigma)
    torch.testing.assert_close(alpha * wrong.x0 + sigma * wrong.eps, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("learned", [False, True])
def test_combined_is_the_weighted_mean_of_what_its_parts_say(learned: bool):
    """What each part says of x_0 alone is what the targets x_0 and eps decode to; they count as sigma^2 and alpha^2."""
    (x0, eps), x = data(), data(6)[0][3:]
    alpha = torch.tensor([0.9, 0.6, 0.1], dtype=torch.float64)
    sigma = (1 - alpha**2).sqrt()
    parts = [
        target.decode(part, x, alpha, sigma).x0
        for target, part in ((X0Parameterization(), x0), (EpsilonParameterization(), eps))
    ]
    shares = [expand(share, x) for share in (sigma**2, alpha**2)]
    output = torch.cat((x0, eps, torch.zeros_like(x)) if learned else (x0, eps), 1)
    said = CombinedParameterization(learned).decode(output, x, alpha, sigma)
    torch.testing.assert_close(said.x0, shares[0] * parts[0] + shares[1] * parts[1])
    torch.testing.assert_close(CombinedParameterization(learned).answer(output, x, alpha, sigma), said.x0)
    assert (said.var_mix is not None) == learned
    if learned:
        torch.testing.assert_close(said.var_mix, torch.full_like(x, 0.5))


def test_a_network_with_one_output_is_no_combined_one():
    x0, eps = data()
    with pytest.raises(ValueError, match=r"set network\.outputs=2"):
        CombinedParameterization().decode(x0, eps, 0.6, 0.8)


@pytest.mark.parametrize("path", sorted((CONF / "parameterization").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_builds(path: Path):
    node = OmegaConf.load(path)
    node.pop("defaults", None)  # what it brings the network
    root = OmegaConf.create({"schedule": {"_target_": "diffusion.schedule.linear.LinearSchedule"}, "it": node})
    assert isinstance(instantiate(root)["it"], Parameterization)
    root.it.learned_variance = True
    assert instantiate(root)["it"].learned_variance
