"""Guidance of Gaussians of one spread: (1 + w) D(mu_c) - w D(mu_u) is the exact denoiser of (1 + w) mu_c - w mu_u."""

from __future__ import annotations

import pytest
import torch
from gaussian_students import TAU, ExactNetwork, FourPoints, Gain, consistency, every, posterior, spread
from torch import Tensor

from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.none import NoConditioner
from diffusion.denoiser import NetworkDenoiser
from diffusion.guidance import ClassifierFreeGuidance, DistilledGuidance
from diffusion.model import DiffusionModel
from diffusion.objective import (
    ConsistencyDistillationObjective,
    GuidanceDistillationObjective,
    ProgressiveObjective,
)
from diffusion.objective.metric import SquaredMetric
from diffusion.objective.pairs import NeighbourPairs
from diffusion.objective.solve import DDIMSolve
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.objective.weighting.truncated_snr import TruncatedSNRWeighting
from diffusion.parameterization.x0 import X0Parameterization
from diffusion.schedule.base import FIRST, Schedule
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.spacing.karras import KarrasSpacing
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond, expand

MEANS = torch.tensor([[0.7], [-0.4], [0.2]], dtype=torch.float64)
"""Of two classes, and without one."""
LOW, HIGH = 0.5, 4.0


class Classes(ExactNetwork):
    """The mean is the condition's vector, moved by the scale that it is told."""

    numbers: tuple[str, ...]

    def __init__(self, schedule: Schedule, gain: Gain, *numbers: str) -> None:
        super().__init__(schedule, gain)
        self.numbers = numbers

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        assert cond.vector is not None
        t, mean = self.time(c_noise), cond.vector[:, 0]
        if "guidance" in cond.numbers:
            mean = MEANS[2] + cond.numbers["guidance"].double() * (mean - MEANS[2])
        mu = expand(mean, x)
        return mu + self.scale * expand(self.gain(t), x) * (x - expand(self.schedule.alpha(t), x) * mu)


def model(schedule: Schedule, gain: Gain, *numbers: str) -> DiffusionModel:
    conditioner = LabelConditioner(2, 1).double()
    conditioner.embedding.weight.data = MEANS.clone()
    denoiser = NetworkDenoiser(Classes(schedule, gain, *numbers), schedule, X0Parameterization())
    return DiffusionModel(denoiser, conditioner, shape=(1, 2, 2))


def batch(taught: DiffusionModel, count: int) -> tuple[Cond, Tensor, Tensor]:
    """Conditions of both classes, scales to draw, and four points around the guided mean of each sample."""
    label = torch.arange(count) % 2
    u = every(count).flip(0)
    scale = (LOW + (HIGH - LOW) * u).float().double()
    mean = MEANS[2] + scale * (MEANS[label][:, 0] - MEANS[2])
    points = torch.tensor([TAU, TAU, -TAU, -TAU], dtype=torch.float64).reshape(1, 1, 2, 2)
    return taught.condition({"label": label}), u, expand(mean, points.expand(count, 1, 2, 2)) + points


def test_a_student_that_is_told_the_scale_has_nothing_to_learn_where_it_is_exact():
    schedule = ContinuousCosineSchedule()
    taught, student = (model(schedule, posterior(schedule), *names) for names in ((), ("guidance",)))
    objective = GuidanceDistillationObjective(taught, TruncatedSNRWeighting(), UniformTimeDistribution(), [LOW, HIGH])
    objective.check(student.denoiser)
    cond, u, x0 = batch(taught, 8)
    loss = objective(student.denoiser, x0, cond, randomness=FourPoints(every(8), u))
    assert loss.unweighted is not None
    assert float(loss.unweighted.detach().max()) < 1e-12  # the scale is told in float32
    student.denoiser.network.scale.data += 0.01
    loss = objective(student.denoiser, x0, cond, randomness=FourPoints(every(8), u))
    wanted = (0.01 * posterior(schedule)(loss.t) * spread(schedule, loss.t)) ** 2
    torch.testing.assert_close(loss.unweighted, wanted, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("told", [False, True])
def test_latent_consistency_on_a_guided_path_loses_the_solvers_error(told: bool):
    """G5 with the guided mean, whether the teacher's guidance takes two predictions or it was told the scale itself."""
    schedule = EDMSchedule()
    taught = model(schedule, posterior(schedule), *(["guidance"] if told else []))
    student = model(schedule, consistency(schedule, FIRST), "guidance")
    pairs = NeighbourPairs(KarrasSpacing(), 9)
    objective = ConsistencyDistillationObjective(
        taught, pairs, DDIMSolve(), SquaredMetric(), rate=0.0, scales=[LOW, HIGH]
    )
    cond, u, x0 = batch(taught, 8)
    loss = objective(student.denoiser, x0, cond, randomness=FourPoints(every(8), u)).total
    t, s = pairs(student.denoiser, FourPoints(every(8)))
    a, b, nu_a, nu_b = schedule.sigma(t), schedule.sigma(s), spread(schedule, t), spread(schedule, s)
    end = spread(schedule, torch.tensor(FIRST, dtype=torch.float64))
    wanted = (end / nu_b) ** 2 * ((1 + (b - a) * a / nu_a**2) * nu_a - nu_b) ** 2
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-12)


def test_a_student_that_is_told_the_scale_is_halved_with_it():
    schedule = ContinuousCosineSchedule()
    taught = model(schedule, posterior(schedule), "guidance")
    alpha, sigma = schedule.coefficients(torch.linspace(0, 1, 9, dtype=torch.float64))
    nu = (alpha**2 * TAU**2 + sigma**2).sqrt()
    steps = (alpha[1:] * alpha[:-1] * TAU**2 + sigma[1:] * sigma[:-1]) / nu[1:] ** 2
    factor, ratio = steps[0::2] * steps[1::2], sigma[0:-2:2] / sigma[2::2]
    gains = (factor - ratio) / (alpha[0:-2:2] - ratio * alpha[2::2])
    student = model(schedule, lambda t: gains[(t * 4).round().long() - 1], "guidance")
    objective = ProgressiveObjective(taught, TruncatedSNRWeighting(), TrailingSpacing(), 8, [LOW, HIGH])
    objective.check(student.denoiser)
    cond, u, x0 = batch(taught, 4)
    loss = objective(student.denoiser, x0, cond, randomness=FourPoints(every(4), u))
    assert loss.unweighted is not None
    assert float(loss.unweighted.detach().max()) < 1e-12


def test_the_scale_that_is_told_is_that_of_classifier_free_guidance():
    schedule = ContinuousCosineSchedule()
    taught, student = (model(schedule, posterior(schedule), *names) for names in ((), ("guidance",)))
    cond, _, x = batch(taught, 4)
    for scale in (0.5, 1.0, 3.0):
        told = DistilledGuidance(student.denoiser, scale, [LOW, HIGH])(x, 0.4, cond)
        two = ClassifierFreeGuidance(taught.denoiser, scale)(x, 0.4, cond)
        torch.testing.assert_close(told.x0, two.x0, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(told.eps, two.eps, rtol=1e-12, atol=1e-12)
    jumped = DistilledGuidance(student.denoiser, 3.0, [LOW, HIGH]).jump(x, 0.4, 0.1, cond)
    torch.testing.assert_close(jumped, two.at(schedule, 0.1), rtol=1e-12, atol=1e-12)


def test_scales_that_cannot_be_told_or_were_not_trained_are_refused():
    schedule = ContinuousCosineSchedule()
    taught, student = (model(schedule, posterior(schedule), *names) for names in ((), ("guidance",)))

    def made(teacher: DiffusionModel, *scales: float) -> GuidanceDistillationObjective:
        return GuidanceDistillationObjective(teacher, TruncatedSNRWeighting(), UniformTimeDistribution(), scales)

    with pytest.raises(ValueError, match=r"guidance scales are \[low, high\] with low <= high, got \[3, 2\]"):
        made(taught, 3, 2)
    with pytest.raises(ValueError, match=r"the network is not told which; set network\.numbers=\[guidance\]"):
        made(taught, 1, 2).check(taught.denoiser)
    made(taught, 2, 2).check(taught.denoiser)
    bare = DiffusionModel(taught.denoiser, NoConditioner(), shape=(1, 2, 2))
    with pytest.raises(ValueError, match="this teacher has no condition to strengthen"):
        made(bare, 1, 2).check(student.denoiser)
    student.config = {"objective": {"scales": [1.0, 3.0]}}
    made(student, 1, 3).check(student.denoiser)
    with pytest.raises(ValueError, match=r"the teacher was told guidance scales in \[1\.0, 3\.0\], got \[1\.0, 4\.0\]"):
        made(student, 1, 4).check(student.denoiser)
    progressive = ProgressiveObjective(student, TruncatedSNRWeighting(), TrailingSpacing(), 8)
    with pytest.raises(ValueError, match=r"set objective\.scales to a part of those that it was trained with"):
        progressive.check(student.denoiser)
    with pytest.raises(ValueError, match=r"scales in \[1, 3\], got 3\.5; set guidance\.distilled\.scale inside"):
        DistilledGuidance(student.denoiser, 3.5, [1, 3])
    with pytest.raises(ValueError, match="needs a model that was told guidance scales in training"):
        DistilledGuidance(student.denoiser, 1.5)
