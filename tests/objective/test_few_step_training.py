"""Seconds of training on a Gaussian in two dimensions: one step of the student is the exact map, to a stated error."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.base import Network
from diffusion.objective import ConsistencyDistillationObjective, ConsistencyTrainingObjective, ProgressiveObjective
from diffusion.objective.base import Objective, Step
from diffusion.objective.metric import SquaredMetric
from diffusion.objective.pairs import CurriculumPairs, NeighbourPairs
from diffusion.objective.solve import HeunSolve
from diffusion.objective.weighting.truncated_snr import TruncatedSNRWeighting
from diffusion.parameterization.edm import EDMParameterization
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.parameterization.x0 import X0Parameterization
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.schedule.base import Schedule
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.spacing.karras import KarrasSpacing
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond

MEAN = torch.tensor([0.5, -0.3])
STD = torch.tensor([0.6, 0.25])
STEPS, BATCH = 300, 256


class Plane(Network):
    """A hidden layer of sinusoids of the noise, times the point and one."""

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.unit = unit
        self.first, self.last = nn.Linear(9, 64), nn.Linear(64, 6)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        u = c_noise[:, None] * self.unit * torch.tensor([1.0, 2.0, 4.0, 8.0])
        rows = self.last(torch.tanh(self.first(torch.cat((u[:, :1], u.sin(), u.cos()), 1))))
        return rows[:, :2] + (rows[:, 2:].reshape(-1, 2, 2) @ x[:, :, None])[:, :, 0]


class Exact(Network):
    """E[x_0 | x_t], with one unused weight."""

    def __init__(self, schedule: Schedule, unit: float) -> None:
        super().__init__()
        self.denoiser, self.unit = GaussianDenoiser(schedule, MEAN, STD), unit
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        schedule = self.denoiser.schedule
        t = (c_noise.double() / 1000) if self.unit < 1 else schedule.times((4 * c_noise.double()).exp())
        return self.denoiser(x, t).x0


def taught(schedule: Schedule, unit: float) -> DiffusionModel:
    return DiffusionModel(NetworkDenoiser(Exact(schedule, unit), schedule, X0Parameterization()), shape=(2,))


def train(objective: Objective, student: NetworkDenoiser, steps: int = STEPS, lr: float = 1e-2) -> None:
    """Adam with a rate that falls to 0, on data that are drawn anew."""
    optimizer = torch.optim.Adam(student.parameters(), lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    objective.check(student)
    for number in range(steps):
        random = torch.Generator().manual_seed(number)
        x0 = MEAN + STD * torch.randn(BATCH, 2, generator=random)
        drawn = KeyedRandomness(range(BATCH), seed=0, stream=TRAINING, step=number)
        step = Step(number, steps, None, nullcontext)
        optimizer.zero_grad()
        objective(student, x0, Cond(), randomness=drawn, step=step).total.mean().backward()
        optimizer.step()
        rate.step()
        objective.after_step(student, step)


def error(student: NetworkDenoiser, wanted_std: Tensor, wanted_mean: Tensor = MEAN) -> float:
    """Of one step from noise against mean + std z: root mean square, in units of the data's spread."""
    level = student.schedule.level(1.0)
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(7))
    nu = (level.alpha**2 * STD**2 + level.sigma**2) ** 0.5
    with torch.no_grad():
        said = student.jump(level.alpha * MEAN + nu * z, 1.0, 0.0)
    return float(((said - wanted_mean - wanted_std * z) / STD).square().mean().sqrt())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["distillation", "training"])
def test_consistency_learns_the_exact_map(kind: str):
    torch.manual_seed(0)
    schedule = EDMSchedule(sigma_min=0.02, sigma_max=20.0)
    student = NetworkDenoiser(Plane(1.0), schedule, EDMParameterization())
    spacing = KarrasSpacing(noise_min=0.02, noise_max=20.0)
    objectives = {
        "distillation": ConsistencyDistillationObjective(
            taught(schedule, 1.0), NeighbourPairs(spacing, 18), HeunSolve(), SquaredMetric(), rate=0.9
        ),
        "training": ConsistencyTrainingObjective(CurriculumPairs(spacing, 2, 40), SquaredMetric(), "constant", 0.5),
    }
    before = error(student, STD)
    train(objectives[kind], student)
    assert before > 0.5
    assert error(student, STD) < {"distillation": 0.06, "training": 0.25}[kind]


@pytest.mark.slow
def test_a_chain_of_halvings_learns_the_exact_product():
    """8 -> 4 -> 2 -> 1: one step multiplies the deviation by the product of DDIM's eight factors."""
    torch.manual_seed(0)
    schedule = ContinuousCosineSchedule()
    teacher = taught(schedule, 1e-3)
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    alpha, sigma = (c[:, None] for c in schedule.coefficients(times))
    nu = (alpha**2 * STD.double() ** 2 + sigma**2).sqrt()
    factor = ((alpha[1:] * alpha[:-1] * STD.double() ** 2 + sigma[1:] * sigma[:-1]) / nu[1:] ** 2).prod(0)
    student = NetworkDenoiser(Plane(1e-3), schedule, VelocityParameterization())
    for steps in (8, 4, 2):
        train(ProgressiveObjective(teacher, TruncatedSNRWeighting(), TrailingSpacing(), steps), student)
        teacher = DiffusionModel(student, shape=(2,))
        student = NetworkDenoiser(Plane(1e-3), schedule, VelocityParameterization())
        student.load_state_dict(teacher.denoiser.state_dict())
    assert error(teacher.denoiser, (factor * nu[-1]).float()) < 0.05
