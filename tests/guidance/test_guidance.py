"""Guidance: the closed form on Gaussians, limits, what is paid for, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.guidance.base import guide, with_eps, with_x0
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.guidance.clip import ClipGuidance
from diffusion.schedule.base import DiscreteSchedule, Schedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.types import Cond, Prediction

MODES = ["auto", "doubled", "two_pass"]
ZERO_SNR = DiscreteSchedule(torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64))


@dataclass
class Conditional:
    """Exact denoiser of N(vector, std^2) given a vector, of N(0, null_std^2) without; counts samples and calls."""

    schedule: Schedule
    std: float = 0.6
    null_std: float = 0.6
    seen: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        self.seen.append(len(x))
        mean = cond.vector.double()
        std = torch.full_like(mean, self.std).masked_fill(mean == 0, self.null_std)
        return GaussianDenoiser(self.schedule, mean, std)(x, t)


def condition(mean: Tensor) -> Cond:
    """With a raw label in the condition only, as conditioner=label gives it."""
    return Cond(
        vector=mean, class_label=torch.zeros(len(mean), dtype=torch.long), null=Cond(vector=torch.zeros_like(mean))
    )


def state(count: int = 5, dim: int = 3) -> tuple[Tensor, Cond]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    return x, condition(1 + torch.rand(count, dim, dtype=torch.float64, generator=generator))


def close(one: Prediction, other: Prediction) -> None:
    torch.testing.assert_close(one.x0, other.x0, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(one.eps, other.eps, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 1.0])
def test_of_equal_gaussians_it_is_the_gaussian_further_out(mode: str, scale: float, t: float) -> None:
    """p(x|c)^s p(x)^(1-s) of equal spread is the Gaussian of mean s m_c: the guided prediction is its denoiser."""
    x, cond = state()
    denoiser = Conditional(CosineSchedule())
    guided = ClassifierFreeGuidance(denoiser, scale, mode=mode)(x, t, cond)
    close(guided, GaussianDenoiser(CosineSchedule(), scale * cond.vector, denoiser.std)(x, t))


@settings(max_examples=25, deadline=None)
@given(scale=st.floats(-2, 8), t=st.floats(0.05, 1.0))
def test_the_guided_score_is_that_of_the_product(scale: float, t: float) -> None:
    """grad of s log p_t(x|c) + (1 - s) log p_t(x), by autograd through torch's normal densities, unequal spreads."""
    x, cond = state()
    denoiser = Conditional(LinearSchedule(), std=0.3, null_std=1.7)
    level = denoiser.schedule.level(t)
    x.requires_grad_()

    def log_p(mean: Tensor, std: float) -> Tensor:
        spread = math.sqrt(level.alpha**2 * std**2 + level.sigma**2)
        return torch.distributions.Normal(level.alpha * mean, spread).log_prob(x).sum()

    product = scale * log_p(cond.vector, 0.3) + (1 - scale) * log_p(torch.zeros_like(x), 1.7)
    (score,) = torch.autograd.grad(product, x)
    guided = ClassifierFreeGuidance(denoiser, scale)(x.detach(), t, cond)
    torch.testing.assert_close(guided.eps, -level.sigma * score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(level.alpha * guided.x0 + level.sigma * guided.eps, x.detach())


@pytest.mark.parametrize(
    ("mode", "scale", "paid"),
    [
        ("doubled", 2.0, [10]),
        ("two_pass", 2.0, [5, 5]),
        ("auto", 2.0, [10]),  # a small batch
        ("doubled", 1.0, [5]),
        ("two_pass", 1.0, [5]),
        ("doubled", 0.0, [5]),
    ],
)
def test_what_is_paid(mode: str, scale: float, paid: list[int]) -> None:
    x, cond = state()
    denoiser = Conditional(CosineSchedule())
    ClassifierFreeGuidance(denoiser, scale, mode=mode)(x, 0.5, cond)
    assert denoiser.seen == paid


@pytest.mark.parametrize(("side", "paid"), [(32, [4]), (33, [4]), (64, [2, 2])])
def test_a_large_batch_takes_two_passes_on_a_cpu(side: int, paid: list[int]) -> None:
    """By the number of pixels and nothing else, so that a seed gives the same samples twice."""
    denoiser = Conditional(CosineSchedule())
    x = torch.zeros(2, 3, side, side, dtype=torch.float64)
    ClassifierFreeGuidance(denoiser, 2.0)(x, 0.5, condition(torch.ones(2, 1, 1, 1, dtype=torch.float64)))
    assert denoiser.seen == paid


def test_outside_the_interval_nothing_is_paid_or_changed() -> None:
    x, cond = state()
    plain, schedule = Conditional(CosineSchedule()), CosineSchedule()
    for interval in ([0.0, 0.2], [3.0, 80.0], [1.0, 1.0]):
        denoiser = Conditional(CosineSchedule())
        guided = ClassifierFreeGuidance(denoiser, 4.0, interval=interval)
        t = schedule.time(1.0)
        close(guided(x, t, cond), plain(x, t, cond))
        assert denoiser.seen == [5]
    inside = ClassifierFreeGuidance(Conditional(CosineSchedule()), 4.0, interval=[0.5, 2.0])
    close(inside(x, schedule.time(1.0), cond), ClassifierFreeGuidance(plain, 4.0)(x, schedule.time(1.0), cond))


@pytest.mark.parametrize("mode", MODES)
def test_tensor_times_decide_for_each_sample(mode: str) -> None:
    x, cond = state()
    guided = ClassifierFreeGuidance(Conditional(CosineSchedule()), 4.0, interval=[0.1, 2.0], mode=mode)
    t = torch.tensor([0.01, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    together = guided(x, t, cond)
    for i in range(5):
        alone = guided(x[i : i + 1], float(t[i]), cond.map(lambda v, i=i: v[i : i + 1]))
        close(alone, Prediction(together.x0[i : i + 1], together.eps[i : i + 1]))
    close(guided(x, torch.tensor(0.5), cond), guided(x, 0.5, cond))


def test_everywhere_includes_zero_snr() -> None:
    """sigma / alpha is infinite there; no interval means there too, a finite one does not."""
    x, cond = state()
    everywhere, bounded = Conditional(ZERO_SNR), Conditional(ZERO_SNR)
    ClassifierFreeGuidance(everywhere, 2.0)(x, 1.0, cond)
    ClassifierFreeGuidance(bounded, 2.0, interval=[0.0, 1e9])(x, 1.0, cond)
    assert (everywhere.seen, bounded.seen) == ([10], [5])


@pytest.mark.parametrize("interval", [[2.0, 0.5], [-1.0, 2.0], [1.0], [0.1, 0.2, 0.3], [math.nan, 1.0]])
def test_bad_intervals_name_their_key(interval: list[float]) -> None:
    with pytest.raises(ValueError, match=r"guidance\.classifier_free\.interval"):
        ClassifierFreeGuidance(Conditional(CosineSchedule()), interval=interval)


def test_an_unconditional_model_is_refused() -> None:
    x, _ = state()
    denoiser = GaussianDenoiser(CosineSchedule())
    with pytest.raises(ValueError, match="needs a condition"):
        ClassifierFreeGuidance(denoiser, 2.0, interval=[0.1, 0.2])(x, 1.0)  # at once, not when the interval is reached
    ClassifierFreeGuidance(denoiser, 1.0)(x, 1.0)


def test_bad_modes_and_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="two_pass"):
        ClassifierFreeGuidance(Conditional(CosineSchedule()), mode="fast")
    with pytest.raises(ValueError, match=r"guidance\.clip"):
        ClipGuidance(Conditional(CosineSchedule()), low=1.0, high=-1.0)


@pytest.mark.parametrize("t", [0.0, 0.001, 0.5, 1.0, torch.tensor([0.0, 0.001, 0.3, 0.9, 1.0])])
@pytest.mark.parametrize("schedule", [CosineSchedule(), ZERO_SNR])
def test_clipping_keeps_x_explained(schedule: Schedule, t: Tensor | float) -> None:
    x, _ = state()
    x = 3 * x
    denoiser = GaussianDenoiser(schedule, 1.5, 2.0)
    clipped, plain = ClipGuidance(denoiser)(x, t), denoiser(x, t)
    assert plain.x0.abs().max() > 1
    torch.testing.assert_close(clipped.x0, plain.x0.clamp(-1, 1), rtol=0, atol=0)
    at = torch.as_tensor(t, dtype=torch.float64).expand(5).unsqueeze(1)
    alpha, sigma = schedule.alpha(at), schedule.sigma(at)
    explained = torch.where(sigma == 0, x, alpha * clipped.x0 + sigma * clipped.eps)
    torch.testing.assert_close(explained, x)
    assert clipped.eps.isfinite().all()


def test_a_range_that_holds_everything_changes_nothing() -> None:
    x, _ = state()
    denoiser = GaussianDenoiser(CosineSchedule(), 0.0, 2.0)
    for t in (0.0, 0.4, 1.0):
        close(ClipGuidance(denoiser, -1e6, 1e6)(x, t), denoiser(x, t))


def test_the_other_half_follows_where_x_tells_it() -> None:
    x, schedule = torch.tensor([[2.0]], dtype=torch.float64), ZERO_SNR
    said = Prediction(torch.tensor([[5.0]]).double(), torch.tensor([[7.0]]).double())
    new = torch.tensor([[0.5]], dtype=torch.float64)
    for at in (lambda t: t, torch.tensor):
        assert float(with_x0(schedule, said, new, x, at(0.0)).eps) == 7.0  # sigma = 0
        assert float(with_x0(schedule, said, new, x, at(1.0)).eps) == 2.0  # alpha = 0, so eps = x
        assert float(with_eps(schedule, said, new, x, at(1.0)).x0) == 5.0  # alpha = 0
        assert float(with_eps(schedule, said, new, x, at(0.0)).x0) == 2.0  # sigma = 0, so x_0 = x


def test_the_first_listed_is_innermost() -> None:
    x, cond = state()
    denoiser = Conditional(CosineSchedule())
    free, clip = partial(ClassifierFreeGuidance, scale=5.0), partial(ClipGuidance)
    outer = guide(denoiser, {"classifier_free": free, "clip": clip})
    close(outer(x, 0.5, cond), ClipGuidance(ClassifierFreeGuidance(denoiser, 5.0))(x, 0.5, cond))
    assert outer(x, 0.5, cond).x0.abs().max() <= 1
    assert guide(denoiser, [clip, free])(x, 0.5, cond).x0.abs().max() > 1
    assert guide(denoiser, {}) is denoiser


def test_the_learned_variance_is_that_of_the_condition() -> None:
    class Learned:
        schedule = CosineSchedule()

        def __call__(self, x: Tensor, t: Tensor | float, cond: Cond) -> Prediction:
            return Prediction(x, x, var_mix=cond.vector)

    x, cond = state()
    for mode in ("doubled", "two_pass"):
        said = ClipGuidance(ClassifierFreeGuidance(Learned(), 3.0, mode=mode))(x, 0.5, cond)
        torch.testing.assert_close(said.var_mix, cond.vector)
