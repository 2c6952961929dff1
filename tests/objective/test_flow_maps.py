"""Objectives of flow maps: their known minima at the exact flow map of a Gaussian, in float64.

Data N(MEAN, STD^2) and noise at four points each with exact first and second moments make the mean of a loss that is
quadratic in both its expectation.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from diffusion.denoiser import NetworkDenoiser
from diffusion.network.base import Network
from diffusion.network.mlp import MLP
from diffusion.objective.base import Step
from diffusion.objective.flow_map import along, average_velocity, velocity
from diffusion.objective.mean_flow import MeanFlowObjective
from diffusion.objective.pairs.base import Pairs
from diffusion.objective.pairs.draws import DrawsPairs
from diffusion.objective.shortcut import ShortcutObjective
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.parameterization.flow import FlowParameterization
from diffusion.randomness import TRAINING, KeyedRandomness, Randomness
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.types import Cond, Prediction, expand

MEAN, STD = 0.7, 0.6
FOUR = list(itertools.product((-1.0, 1.0), repeat=2))
SCHEDULES = [FlowSchedule(), FlowSchedule(3.0), ContinuousCosineSchedule(), EDMSchedule()]
TIMES = [(0.9, 0.3), (0.7, 0.7), (1.0, 0.0), (0.5, 0.25), (0.05, 0.01)]
EVEN = DrawsPairs(UniformTimeDistribution(), UniformTimeDistribution(), apart=0.75)
named = {"ids": lambda part: type(part).__name__}


class Design(Randomness):
    """The noise of a design, and given uniform numbers."""

    def __init__(self, eps: Tensor, *uniform: float) -> None:
        self.eps, self.uniform = eps, iter(uniform)
        self.place, self.size = torch.arange(len(eps)), len(eps)

    def rand(self) -> Tensor:
        return torch.full((len(self.eps),), next(self.uniform, 0.5), dtype=torch.float64)

    def shared(self, group: Tensor) -> Tensor:
        return self.rand()

    def randn_like(self, x: Tensor) -> Tensor:
        return self.eps.to(x)


def keyed(index: int | range, place: Tensor | None = None, size: int | None = None) -> KeyedRandomness:
    index = range(index) if isinstance(index, int) else index
    return KeyedRandomness(index, seed=0, stream=TRAINING, place=place, size=size)


class At(Pairs):
    """Every sample from one time to one time."""

    def __init__(self, t: float, s: float) -> None:
        self.times = t, s

    def __call__(self, denoiser, randomness, step=None) -> tuple[Tensor, Tensor]:
        return tuple(torch.full_like(randomness.rand(), time) for time in self.times)


def design(mean: float = MEAN, std: float = STD) -> tuple[Tensor, Design]:
    x0 = torch.tensor([[mean + std * a] for a, _ in FOUR], dtype=torch.float64)
    return x0, Design(torch.tensor([[b] for _, b in FOUR], dtype=torch.float64))


class ExactMap(nn.Module):
    """The exact flow map of N(mean, std^2), its average velocity times a parameter; of ``null`` for vectors of 0."""

    def __init__(self, schedule: Any, mean: float = MEAN, std: float = STD, null: float | None = None) -> None:
        super().__init__()
        self.schedule, self.mean, self.std, self.null = schedule, mean, std, null
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.network = nn.Module()
        self.network.numbers = ("to", "guidance")

    def towards(self, x: Tensor, s: Any, cond: Cond) -> Cond:
        at = torch.as_tensor(s, dtype=torch.float64).expand(len(x))
        return replace(cond, numbers={**cond.numbers, "to": at})

    def forward(self, x: Tensor, t: Any, cond: Cond) -> Prediction:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        u, r, size = (expand(v, x) for v in (self.place(t), self.place(cond.numbers["to"]), self.size(t)))
        mean = self.mean if cond.vector is None or self.null is None or cond.vector.any() else self.null
        z, tau = x / size, self.std
        here, there = (((1 - at) ** 2 * tau**2 + at**2) ** 0.5 for at in (u, r))
        average = -mean + (z - (1 - u) * mean) * ((u + r) - tau**2 * (2 - u - r)) / (here * (here + there))
        average = self.gain * average
        return Prediction(z - u * average, z + (1 - u) * average)

    def size(self, t: Tensor) -> Tensor:
        return sum(self.schedule.coefficients(t))

    def place(self, t: Tensor) -> Tensor:
        return self.schedule.sigma(t) / self.size(t)


def spread(schedule: Any, t: float, std: float = STD) -> float:
    level = schedule.level(t)
    u = level.sigma / (level.alpha + level.sigma)
    return math.hypot((1 - u) * std, u)


def measured(objective: Any, model: nn.Module, x0: Tensor, source: Randomness, **more: Any) -> tuple[Tensor, Tensor]:
    """(losses (B,), the gradient of their mean by the parameter)."""
    loss = objective(model, x0, more.pop("cond", Cond()), randomness=source, **more).total
    (gradient,) = torch.autograd.grad(loss.mean(), model.gain)
    return loss.detach(), gradient


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


class Euler(ExactMap):
    """The map of N steps of Euler along the exact velocity of a Gaussian, on the straight path."""

    steps = 128

    def forward(self, x: Tensor, t: Any, cond: Cond) -> Prediction:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        z = x
        for start, end in zip(t.tolist(), cond.numbers["to"].tolist(), strict=True):
            assert (start, end) == (t[0], cond.numbers["to"][0]), "all samples jump alike"
        start, end = round(float(t[0]) * self.steps * 2), round(float(cond.numbers["to"][0]) * self.steps * 2)
        h = min(2, start - end)  # the target of a shortest jump is halved nowhere
        for i in range(start, end, -h):
            at = i / self.steps / 2
            drift = -MEAN + (z - (1 - at) * MEAN) * (at - STD**2 * (1 - at)) / ((1 - at) ** 2 * STD**2 + at**2)
            z = z - h / self.steps / 2 * drift
        average = self.gain * (x - z) / (t[0] - cond.numbers["to"][0])
        return Prediction(x - float(t[0]) * average, x + (1 - float(t[0])) * average)


def test_shortcuts_bootstrapped_from_their_shortest_are_its_euler_steps() -> None:
    """That map is the minimum of both losses; in one jump its slope is prod(1 - h (t - std^2 (1 - t)) / nu_t^2)."""
    for at, level in ((0.3, 0.0), (0.9, 0.999), (0.999, 0.2), (0.5, 0.5)):
        x0, source = design()
        source.uniform = iter((level, at))
        losses, gradient = measured(ShortcutObjective(128, 1.0, clip=None), Euler(FlowSchedule()), x0, source)
        assert losses.max() < 1e-20
        assert abs(float(gradient)) < 1e-10
        source.uniform = iter((level, at))
        losses, gradient = measured(ShortcutObjective(128, 0.0, clip=None), Euler(FlowSchedule()), x0, source)
        t = (math.floor(at * 128) + 1) / 128
        assert float(losses.mean()) == pytest.approx(STD**2 / spread(FlowSchedule(), t) ** 2, rel=1e-10)
        assert abs(float(gradient)) < 1e-10
    model, x = Euler(FlowSchedule()), torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    end = model(x, 1.0, model.towards(x, 0.0, Cond())).x0.detach()
    slope = math.prod(
        1 - (t - STD**2 * (1 - t)) / ((1 - t) ** 2 * STD**2 + t**2) / 128 for t in (i / 128 for i in range(128, 0, -1))
    )
    assert float(end[1] - end[0]) == pytest.approx(slope, rel=1e-10)
    assert slope == pytest.approx(0.59352, abs=5e-6)


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
def test_the_exact_map_is_two_jumps_of_half_the_length(schedule: Any) -> None:
    for level, at in ((0.0, 0.0), (0.3, 0.6), (0.99, 0.1)):
        x0, source = design()
        source.uniform = iter((level, at))
        losses, gradient = measured(ShortcutObjective(16, 1.0, clip=None), ExactMap(schedule), x0, source)
        assert losses.max() < 1e-20
        assert abs(float(gradient)) < 1e-10


def test_shortcuts_bootstrap_from_the_average_and_guide_only_the_shortest() -> None:
    x0, source = design()
    one, none = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, 1, dtype=torch.float64)
    cond, null = Cond(vector=one, null=Cond(vector=none)), -0.4
    objective = ShortcutObjective(16, 1.0, clip=None, scale=1.5)
    average = ExactMap(FlowSchedule(), null=null)
    step = Step(0, None, average, lambda: None)  # type: ignore[arg-type, return-value]
    for level, mean in ((0.9, 1.5 * MEAN - 0.5 * null), (0.1, MEAN)):
        source.uniform = iter((level, 0.7))
        losses, _ = measured(objective, ExactMap(FlowSchedule(), mean=mean), x0, source, cond=cond, step=step)
        assert losses.max() < 1e-20, "the target of jumps of 2 / steps, and no longer ones, is the guided map"
    with pytest.raises(ValueError, match="needs a condition"):
        objective(average, x0, Cond(), randomness=Design(source.eps, 0.9, 0.7))


def test_a_share_of_each_batch_makes_longer_jumps_wherever_it_is_cut() -> None:
    objective = ShortcutObjective(128, 0.125, clip=None)
    whole = objective.longer(torch.arange(32))
    assert whole.tolist() == [7, 15, 23, 31]
    assert objective.longer(torch.arange(5, 18)).tolist() == [2, 10]


def test_states_and_targets_are_bounded() -> None:
    x0, source = design(mean=30.0)
    losses, _ = measured(
        ShortcutObjective(4, 1.0), ExactMap(FlowSchedule(), mean=30.0), x0, Design(source.eps, 0.0, 0.0)
    )
    model = ExactMap(FlowSchedule(), mean=30.0)
    x = source.eps
    said = model(x, 1.0, model.towards(x, 0.0, Cond()))
    torch.testing.assert_close(losses, ((said.eps - said.x0) + 4.0).square().mean(1).detach())


def gaussian(count: int, generator: torch.Generator) -> Tensor:
    """Correlated in the plane; (B, 2, 1, 1)."""
    z = torch.randn(count, 2, generator=generator)
    return (torch.tensor([0.5, -0.3]) + z @ torch.tensor([[0.7, 0.4], [0.0, 0.3]])).reshape(count, 2, 1, 1)


def exact_map(noise: Tensor) -> Tensor:
    """The map of the ODE from N(0, 1) to :func:`gaussian`: mean + root of the covariance, times the noise."""
    factor = torch.tensor([[0.7, 0.4], [0.0, 0.3]])
    values, vectors = torch.linalg.eigh(factor.T @ factor)
    root = vectors @ values.sqrt().diag() @ vectors.T
    return (torch.tensor([0.5, -0.3]) + noise.flatten(1) @ root).reshape(noise.shape)


def trained(
    objective: Any, steps: int = 600, schedule: Any = None, lr: float = 5e-3, target: Any = None, scale: float = 0.003
) -> Any:
    """A small network, trained on the plane by hand with an average of its weights."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    network = MLP(2, 1, width=32, depth=1, numbers=("to",))
    model = NetworkDenoiser(network, schedule or FlowSchedule(), target or FlowParameterization(), time_scale=scale)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98))
    extra = [p for module in objective.extra.values() for p in module.parameters()]
    optimizer = torch.optim.Adam([*model.parameters(), *extra], lr=lr)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / (steps + 1))
    objective.check(model)
    for number in range(steps):
        step = Step(number, steps, average.module, lambda: None)  # type: ignore[arg-type, return-value]
        loss = objective(model, gaussian(128, generator), Cond(), step=step).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        average.update_parameters(model)
    return average.module.eval()


def one_step_error(model: Any) -> float:
    """Of one jump from noise, relative to the spread of the data."""
    noise = torch.randn(2000, 2, 1, 1, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        said, wanted = (
            model.jump(noise * model.schedule.prior_std(model.schedule.level(1.0)), 1.0, 0.0),
            exact_map(noise),
        )
    return float((said - wanted).square().mean().sqrt() / wanted.std())


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
