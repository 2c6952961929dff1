"""Objectives of flow maps: their known minima at the exact flow map of a Gaussian, in float64.

Data N(MEAN, STD^2) and noise at four points each with exact first and second moments make the mean of a loss that is
quadratic in both its expectation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from flow_maps import (
    MEAN,
    STD,
    At,
    Design,
    ExactMap,
    design,
    keyed,
    measured,
    one_step_error,
    spread,
    trained,
)
from torch import Tensor, nn

from diffusion.denoiser import NetworkDenoiser
from diffusion.network.base import Network
from diffusion.network.mlp import MLP
from diffusion.objective.flow_map import along, average_velocity, velocity
from diffusion.objective.mean_flow import MeanFlowObjective
from diffusion.objective.pairs.draws import DrawsPairs
from diffusion.objective.shortcut import ShortcutObjective
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.parameterization.flow import FlowParameterization
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.types import Cond, Prediction

SCHEDULES = [FlowSchedule(), FlowSchedule(3.0), ContinuousCosineSchedule(), EDMSchedule()]
TIMES = [(0.9, 0.3), (0.7, 0.7), (1.0, 0.0), (0.5, 0.25), (0.05, 0.01)]
EVEN = DrawsPairs(UniformTimeDistribution(), UniformTimeDistribution(), apart=0.75)
named = {"ids": lambda part: type(part).__name__}


@pytest.mark.parametrize("tangent", ["data", "predicted"])
@pytest.mark.parametrize("schedule", SCHEDULES, **named)
@pytest.mark.parametrize(("t", "s"), TIMES)
def test_the_exact_mean_flow_is_the_minimum(schedule: Any, t: float, s: float, tangent: str) -> None:
    """Residuals are (nu_s / nu_t)(v - v*) with the sample's velocity and v - v* with the predicted one; v has the
    conditional variance std^2 / nu_t^2. With u* times 1 + d they are those plus d (u* + (t - s) du*/dt)."""
    model, objective = ExactMap(schedule), MeanFlowObjective(At(t, s), p=0.0, tangent=tangent)
    losses, gradient = measured(objective, model, *design())
    here, there = spread(schedule, t), spread(schedule, s)
    least, share = STD**2 / here**2, there / here if tangent == "data" else 1.0
    assert float(losses.mean()) == pytest.approx(share**2 * least, rel=1e-10)
    assert abs(float(gradient)) < 1e-10
    if tangent == "data":
        with torch.no_grad():
            model.gain += (d := 0.1)
        more = (1 + d) ** 2 * share**2 * least - 2 * d * (1 + d) * share * least + d**2 * (MEAN**2 + STD**2 + 1)
        assert float(measured(objective, model, *design())[0].mean()) == pytest.approx(more, rel=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.3), (1.0, 0.25)])
def test_one_point_is_learned_from_each_sample(schedule: Any, t: float, s: float) -> None:
    """With a single value of the data the sample's velocity is the ODE's: the losses of the exact maps vanish."""
    x0, source = design(std=0.0)
    model = ExactMap(schedule, std=0.0)
    for tangent in ("data", "predicted"):
        losses, _ = measured(MeanFlowObjective(At(t, s), tangent=tangent), model, x0, source)
        assert losses.max() < 1e-20
    for bootstrap in (0.0, 1.0):
        objective = ShortcutObjective(16, bootstrap, clip=None)
        losses, _ = measured(objective, model, x0, Design(source.eps, 0.4, 0.7))
        assert losses.max() < 1e-20


@pytest.mark.parametrize("mixture", [0.0, 0.5])
@pytest.mark.parametrize("tangent", ["data", "predicted"])
def test_guidance_in_the_target_is_learned_as_the_guided_gaussians_map(mixture: float, tangent: str) -> None:
    """Two Gaussians of one spread, guided with w, are the Gaussian around w m + (1 - w) m_0: its map is the minimum
    of the loss with w = scale / (1 - mixture)."""
    scale, null = 2.0, -0.4
    guided = scale / (1 - mixture) * MEAN + (1 - scale / (1 - mixture)) * null
    model = ExactMap(FlowSchedule(), mean=guided, null=null)
    one, none = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    cond = Cond(vector=one, null=Cond(vector=none))
    objective = MeanFlowObjective(At(0.8, 0.3), p=0.0, tangent=tangent, scales=[scale, scale], mixture=mixture)
    losses, gradient = measured(objective, model, *design(), cond=cond)
    share = spread(FlowSchedule(), 0.3) / spread(FlowSchedule(), 0.8) if tangent == "data" else 1.0
    least = (scale * share) ** 2 * STD**2 / spread(FlowSchedule(), 0.8) ** 2
    assert float(losses.mean()) == pytest.approx(least, rel=1e-10)
    assert abs(float(gradient)) < 1e-10
    dropped = Cond(vector=none, null=Cond(vector=none), source={"dropped": torch.ones(4, dtype=torch.bool)})
    plain = measured(MeanFlowObjective(At(0.8, 0.3), p=0.0), ExactMap(FlowSchedule(), mean=null), *design())[0]
    without = measured(objective, model, *design(), cond=dropped)[0]
    if tangent == "data":
        torch.testing.assert_close(without, plain)


def test_the_adaptive_weight_makes_the_loss_one_of_its_norm() -> None:
    """With p = 1 each loss is ||.||^2 / (||.||^2 + c), and its gradient that of log(||.||^2 + c)."""
    x0, source = design()
    x0, eps = x0.repeat(1, 3), source.eps.repeat(1, 3)
    model = ExactMap(FlowSchedule(), std=0.9)
    raw = MeanFlowObjective(At(0.8, 0.3), p=0.0)(model, x0, Cond(), randomness=Design(eps)).total
    log = torch.autograd.grad((raw + 0.5).log().mean(), model.gain)[0]
    losses, gradient = measured(MeanFlowObjective(At(0.8, 0.3), p=1.0, c=0.5), model, x0, Design(eps))
    torch.testing.assert_close(losses, raw.detach() / (raw.detach() + 0.5))
    torch.testing.assert_close(gradient, log)


LEARNED = {
    "mean_flow": (MeanFlowObjective(EVEN, p=0.0), 300, 0.15),
    "improved_mean_flow": (MeanFlowObjective(EVEN, p=0.0, tangent="predicted"), 300, 0.2),
    "shortcut": (ShortcutObjective(16, 0.25), 400, 0.2),
}
"""Objectives, their steps of training and the error that they reach."""


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_a_few_seconds_of_training_reach_the_exact_map_in_one_step(name: str) -> None:
    """A velocity, which is what such a model begins as, gives the mean in one step: an error of 1."""
    objective, steps, error = LEARNED[name]
    assert one_step_error(trained(objective, steps)) < error


class Seen(ExactMap):
    """Remembers the numbers that it was told."""

    def forward(self, x: Tensor, t: Any, cond: Cond) -> Prediction:
        self.numbers = cond.numbers
        return super().forward(x, t, replace(cond, vector=None))


def test_a_drawn_scale_is_told() -> None:
    x0, source = design()
    one = torch.ones(4, 1, dtype=torch.float64)
    model, cond = Seen(FlowSchedule()), Cond(vector=one, null=Cond(vector=0 * one))
    source.uniform = iter((0.5, 0.5, 0.25))
    MeanFlowObjective(At(0.8, 0.3), scales=[1.0, 5.0])(model, x0, cond, randomness=source)
    assert model.numbers["guidance"].tolist() == [2.0] * 4


def test_what_cannot_be_a_flow_map_is_refused_before_training() -> None:
    def on(schedule: Any, *numbers: str) -> NetworkDenoiser:
        return NetworkDenoiser(MLP(2, numbers=numbers), schedule, FlowParameterization())

    mean_flow = MeanFlowObjective(EVEN)
    for objective in (mean_flow, ShortcutObjective()):
        objective.check(on(FlowSchedule(), "to"))
        with pytest.raises(ValueError, match=r"told one; set network\.numbers=\[guidance,to\]"):
            objective.check(on(FlowSchedule(), "guidance"))
    with pytest.raises(ValueError, match="a continuous schedule"):
        mean_flow.check(on(CosineSchedule(), "to"))
    with pytest.raises(ValueError, match=r"network\.numbers=\[to,guidance\]"):
        MeanFlowObjective(EVEN, scales=[1.0, 3.0]).check(on(FlowSchedule(), "to"))
    for wrong in ({"p": -1.0}, {"c": 0.0}, {"tangent": "neither"}, {"scales": [3.0, 1.0]}, {"mixture": 1.0}):
        with pytest.raises(ValueError, match=rf"objective\.{next(iter(wrong))}"):
            MeanFlowObjective(EVEN, **wrong)
    for wrong in ({"steps": 12}, {"bootstrap": 1.5}, {"clip": 0.0}, {"scale": -1.0}):
        with pytest.raises(ValueError, match=rf"objective\.{next(iter(wrong))}"):
            ShortcutObjective(**wrong)


def test_half_of_the_pairs_are_apart() -> None:
    pairs = DrawsPairs(UniformTimeDistribution(), UniformTimeDistribution(), apart=0.5)
    t, s = pairs(NetworkDenoiser(MLP(2), FlowSchedule(), FlowParameterization()), keyed(4000))
    assert (s <= t).all()
    assert float((s < t).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(t[s < t].mean()) == pytest.approx(2 / 3, abs=0.02)
    with pytest.raises(ValueError, match=r"objective\.pairs\.apart"):
        DrawsPairs(UniformTimeDistribution(), UniformTimeDistribution(), apart=2.0)


class Attention(Network):
    """Attention over the pixels, told two times: fused kernels have no forward derivative."""

    numbers = ("to",)

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(1, 6)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        told = c_noise / 1000 + cond.numbers["to"].to(x) / 2000
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2) * (1 + told[:, None, None])).unsqueeze(1).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v).sum(-1).reshape(x.shape)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_derivative_is_that_of_differences_through_attention_and_in_validation(compiled: bool) -> None:
    torch.manual_seed(0)
    model = NetworkDenoiser(Attention(), FlowSchedule(), FlowParameterization())
    x, dx = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, s = torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64), torch.tensor([0.1, 0.5, 0.0], dtype=torch.float64)
    model.double()
    h = 1e-5
    ends = [average_velocity(model, x + sign * h * dx, t + sign * h * 0.7, s, Cond()) for sign in (-1, 1)]
    told = model.towards(x, s, Cond())
    if compiled:
        model.network.compile(backend="aot_eager")
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            value, rate = along(lambda x, t: velocity(model(x, t, told)), x, t, dx, torch.full_like(t, 0.7))
        torch.testing.assert_close(rate, (ends[1] - ends[0]) / (2 * h), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(value, average_velocity(model, x, t, s, Cond()))
        assert value.requires_grad == (context is torch.enable_grad)
        assert not rate.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        exact = along(lambda x, t: velocity(model(x, t, told)), x, t, dx, torch.full_like(t, 0.7))[1]
    torch.testing.assert_close(exact, rate)


def test_a_step_on_halves_of_a_batch_is_that_of_the_whole() -> None:
    model = NetworkDenoiser(MLP(2, width=16, depth=1, numbers=("to",)), FlowSchedule(), FlowParameterization()).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    x0 = torch.randn(8, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for objective in (MeanFlowObjective(EVEN), ShortcutObjective(8, 0.5)):
        whole = objective(model, x0, Cond(), randomness=keyed(8)).total
        halves = [
            objective(model, x0[at], Cond(), randomness=keyed(range(8)[at], torch.arange(8)[at], 8)).total
            for at in (slice(0, 3), slice(3, 8))
        ]
        torch.testing.assert_close(torch.cat(halves), whole)
