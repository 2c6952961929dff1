"""Consistency in continuous time, held to a Gaussian's consistency function and to the limit of discrete pairs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from flow_maps import MEAN, STD, At, Design, ExactMap, design, keyed, one_step_error, trained
from test_objective import At as AtTime
from torch import Tensor, nn

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.mlp import MLP
from diffusion.objective.base import Step
from diffusion.objective.consistency_training import ConsistencyTrainingObjective
from diffusion.objective.continuous_consistency import ContinuousConsistencyObjective, LevelWeight
from diffusion.objective.continuous_distillation import ContinuousDistillationObjective
from diffusion.objective.metric.squared import SquaredMetric
from diffusion.objective.time_distribution.log_normal import LogNormalTimeDistribution
from diffusion.parameterization.edm import EDMParameterization
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.parameterization.x0 import X0Parameterization
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.schedule.trig import TrigSchedule
from diffusion.types import Cond, Prediction

SIGMA_DATA = 0.5
SCHEDULES = [TrigSchedule(), FlowSchedule(), ContinuousCosineSchedule(), EDMSchedule()]
TIMES = [0.95, 0.6, 0.2]
named = {"ids": lambda part: type(part).__name__}
raw = {"normalization": None, "adaptive": False}


class ExactConsistency(ExactMap):
    """x_0 at the end of the ODE through x at t, of N(mean, std^2); its F times a parameter."""

    parameterization = EDMParameterization(SIGMA_DATA)

    def forward(self, x: Tensor, t: Any, cond: Cond) -> Prediction:
        alpha, sigma = self.schedule.coefficients(t)
        alpha, sigma = alpha[:, None], sigma[:, None]
        spread = (alpha**2 * self.std**2 + sigma**2).sqrt()
        x0 = self.mean + self.std / spread * (x - alpha * self.mean)
        F = self.gain * self.parameterization.encode(x0, (x - alpha * x0) / sigma, alpha, sigma)
        return self.parameterization.decode(F, x, alpha, sigma)


def angle(schedule: Any, t: float) -> float:
    return math.atan(schedule.level(t).noise / SIGMA_DATA)


def circle_spread(a: float) -> float:
    """nu of x = cos(a) x_0 + sin(a) sigma_data eps."""
    return math.hypot(math.cos(a) * STD, math.sin(a) * SIGMA_DATA)


def measured(objective: Any, model: nn.Module) -> tuple[Tensor, float]:
    x0, source = design()
    loss = objective(model, x0, Cond(), randomness=source).total
    return loss.detach(), float(torch.autograd.grad(loss.mean(), model.gain)[0])


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
@pytest.mark.parametrize("t", TIMES)
def test_without_a_teacher_the_exact_consistency_function_is_stationary(schedule: Any, t: float) -> None:
    """The tangent is cos(a) (std / nu)(v - v*): its mean square is cos(a)^2 sigma_data^2 std^4 / nu^4, and the gradient
    is 0."""
    losses, gradient = measured(ContinuousConsistencyObjective(AtTime(t), **raw), ExactConsistency(schedule))
    a = angle(schedule, t)
    least = math.cos(a) ** 2 * SIGMA_DATA**2 * STD**4 / circle_spread(a) ** 4
    assert float(losses.mean()) == pytest.approx(least, rel=1e-9)
    assert abs(gradient) < 1e-10


def exact_teacher(schedule: Any) -> DiffusionModel:
    return DiffusionModel(GaussianDenoiser(schedule, MEAN, STD))  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
@pytest.mark.parametrize("t", TIMES)
def test_along_the_teachers_ode_the_exact_consistency_function_has_no_tangent(schedule: Any, t: float) -> None:
    """With F* times 1 + d the tangent is d cos(a) (sin(a) x - cos(a) dx/da), of which mean and spread are known; the
    teacher may have another schedule."""
    objective = ContinuousDistillationObjective(exact_teacher(ContinuousCosineSchedule()), AtTime(t), **raw)
    model = ExactConsistency(schedule)
    losses, gradient = measured(objective, model)
    assert losses.max() < 1e-20
    assert abs(gradient) < 1e-10
    with torch.no_grad():
        model.gain += (d := 0.1)
    a = angle(schedule, t)
    cos, sin, nu = math.cos(a), math.sin(a), circle_spread(a)
    moving = sin * cos * (SIGMA_DATA**2 - STD**2) / nu
    more = d**2 * cos**2 * ((2 * sin * cos * MEAN) ** 2 + (sin * nu - cos * moving) ** 2)
    assert float(measured(objective, model)[0].mean()) == pytest.approx(more, rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
def test_a_single_value_of_the_data_leaves_no_tangent_for_any_sample(schedule: Any) -> None:
    x0, source = design(std=0.0)
    model = ExactConsistency(schedule, std=0.0)
    objective = ContinuousConsistencyObjective(AtTime(0.6), **raw)
    assert objective(model, x0, Cond(), randomness=source).total.max() < 1e-20


def random_student(schedule: Any) -> NetworkDenoiser:
    model = NetworkDenoiser(MLP(2, width=16, depth=1), schedule, EDMParameterization(), time_scale=0.5).double()
    generator = torch.Generator().manual_seed(3)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3, generator=generator)
    return model


@pytest.mark.parametrize("t", [0.7, 0.3])
def test_it_is_the_limit_of_consistency_training_with_neighbouring_times(t: float) -> None:
    """The gradient of ||f(x_t) - f'(x_s)||^2 divided by the step da is sigma_data tan(a) times that of
    ||F - F' - g||^2."""
    schedule = TrigSchedule()
    model = random_student(schedule)
    x0 = 0.5 * torch.randn(8, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    eps = torch.randn(8, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def gradient(objective: Any) -> Tensor:
        loss = objective(model, x0, Cond(), randomness=Design(eps)).total.mean()
        parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None])

    wanted = SIGMA_DATA * math.tan(angle(schedule, t)) * gradient(ContinuousConsistencyObjective(AtTime(t), **raw))
    discrete = []
    for h in (1e-4, 5e-5):
        objective = ConsistencyTrainingObjective(At(t, t - h), SquaredMetric(), "constant")
        discrete.append(gradient(objective) / (h * schedule.last))
    torch.testing.assert_close(2 * discrete[1] - discrete[0], wanted, rtol=1e-5, atol=1e-8)


def test_tangents_are_normalised_warmed_up_and_weighted() -> None:
    x0 = 0.5 * torch.randn(8, 2, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = random_student(FlowSchedule())

    def losses(step: int | None = None, **options: Any) -> Tensor:
        objective = ContinuousConsistencyObjective(AtTime(0.5), **{**raw, "warmup": 100, **options})
        at = None if step is None else Step(step, None, None, lambda: None)  # type: ignore[arg-type, return-value]
        return objective(model, x0, Cond(), randomness=keyed(8), step=at).total.detach()

    norm = (2 * losses()).sqrt()
    torch.testing.assert_close(losses(normalization=0.3), (norm / (norm + 0.3)) ** 2 / 2)
    torch.testing.assert_close(losses(100), losses())
    torch.testing.assert_close(losses(5000), losses())
    assert not torch.allclose(losses(0), losses())
    start, half, end = (losses(k).mean() for k in (0, 50, 100))
    assert torch.isfinite(torch.stack((start, half, end))).all()
    objective = ContinuousConsistencyObjective(AtTime(0.5), normalization=None)
    with torch.no_grad():
        objective.extra["weight"].weight[0] = 0.4
    weighted = objective(model, x0, Cond(), randomness=keyed(8)).total
    torch.testing.assert_close(weighted.detach(), math.exp(0.4) * losses() - 0.4, rtol=1e-6, atol=1e-7)


def test_the_weight_is_learned_to_the_inverse_of_each_levels_loss() -> None:
    """e^w L - w is least at w = -log L."""
    weight = LevelWeight()
    a = torch.rand(512, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * math.pi / 2
    level = 0.1 + a.float() ** 2
    optimizer = torch.optim.Adam(weight.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (weight(a).exp() * level - weight(a)).mean().backward()
        optimizer.step()
    torch.testing.assert_close(weight(a), -level.log(), rtol=0, atol=0.05)


def test_what_it_cannot_train_is_refused_before_training() -> None:
    objective = ContinuousConsistencyObjective(LogNormalTimeDistribution(-1.0, 1.4))
    objective.check(NetworkDenoiser(MLP(2), TrigSchedule(), EDMParameterization()))
    with pytest.raises(ValueError, match="continuous schedule"):
        objective.check(NetworkDenoiser(MLP(2), CosineSchedule(), VelocityParameterization()))
    with pytest.raises(ValueError, match="parameterization=edm"):
        objective.check(NetworkDenoiser(MLP(2), TrigSchedule(), X0Parameterization()))
    with pytest.raises(ValueError, match="the teacher, whose own ends at"):
        ContinuousDistillationObjective(exact_teacher(EDMSchedule(sigma_max=2.0)), AtTime(0.5)).check(
            NetworkDenoiser(MLP(2), TrigSchedule(), EDMParameterization())
        )
    for wrong in ({"sigma_data": 0.0}, {"warmup": -1}, {"normalization": 0.0}):
        with pytest.raises(ValueError, match=rf"objective\.{next(iter(wrong))}"):
            ContinuousConsistencyObjective(AtTime(0.5), **wrong)


class PlaneTeacher(GaussianDenoiser):
    """The exact denoiser of the correlated Gaussian of the plane."""

    def __init__(self, schedule: Any) -> None:
        super().__init__(schedule)
        self.network = nn.Identity()
        factor = torch.tensor([[0.7, 0.4], [0.0, 0.3]])
        self.values, self.vectors = torch.linalg.eigh(factor.T @ factor)
        self.centre = torch.tensor([0.5, -0.3])

    def __call__(self, x: Tensor, t: Any, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        alpha, sigma = (c.float()[:, None] for c in self.schedule.coefficients(t.expand(len(x))))
        apart = (x.flatten(1) - alpha * self.centre) @ self.vectors
        shrunk = apart / (alpha**2 * self.values + sigma**2)
        x0 = self.centre + alpha * (shrunk * self.values) @ self.vectors.T
        return Prediction(x0.reshape(x.shape), (sigma * shrunk @ self.vectors.T).reshape(x.shape))


LEARNED = {
    "training": (lambda times: ContinuousConsistencyObjective(times, warmup=100), 400, 0.25),
    "distillation": (
        lambda times: ContinuousDistillationObjective(
            DiffusionModel(PlaneTeacher(TrigSchedule())), times, warmup=100  # type: ignore[arg-type]
        ),
        400,
        0.2,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_a_few_seconds_of_training_reach_the_exact_map_in_one_step(name: str) -> None:
    make, steps, error = LEARNED[name]
    objective = make(LogNormalTimeDistribution(-0.5, 1.6))
    model = trained(objective, steps, TrigSchedule(), target=EDMParameterization(), scale=1.0)
    assert one_step_error(model) < error
