"""Progressive distillation: a step of the exact student is two of its teacher, down to one step that is all of them."""

from __future__ import annotations

import pytest
import torch
from gaussian_students import MU, TAU, FourPoints, denoiser, design, every, spread, teacher
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.objective.progressive import ProgressiveObjective
from diffusion.objective.solve import DDIMSolve, HeunSolve
from diffusion.objective.weighting.truncated_snr import TruncatedSNRWeighting
from diffusion.sampler.base import Denoise
from diffusion.sampler.heun import trapezoid
from diffusion.schedule.base import Schedule
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.spacing.karras import KarrasSpacing
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond

SCHEDULES = [ContinuousCosineSchedule(), EDMSchedule(), FlowSchedule()]
named = {"ids": lambda part: type(part).__name__}


def factors(schedule: Schedule, steps: int) -> Tensor:
    """c(t -> s) of DDIM's steps of the exact denoiser on an even grid, from the one to data upwards."""
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    alpha, sigma = schedule.coefficients(times)
    product = alpha[1:] * alpha[:-1] * TAU**2 + sigma[1:] * sigma[:-1]
    return product / spread(schedule, times[1:]) ** 2


def student_gain(schedule: Schedule, factor: Tensor):
    """That of the x_0 by which DDIM's steps have these factors."""
    times = torch.linspace(0, 1, len(factor) + 1, dtype=torch.float64)
    alpha, sigma = schedule.coefficients(times)
    ratio = sigma[:-1] / sigma[1:]
    gains = (factor - ratio) / (alpha[:-1] - ratio * alpha[1:])
    return lambda t: gains[(t * len(factor)).round().long() - 1]


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
def test_ddims_step_of_the_exact_denoiser_has_its_factor(schedule: Schedule):
    t, s = torch.tensor([1.0, 0.7, 0.4, 0.1]).double(), torch.tensor([0.6, 0.3, 0.39, 0.0]).double()
    x = design(4) * 1.3
    stepped = DDIMSolve()(GaussianDenoiser(schedule, MU, TAU), x, t, s, Cond())
    (a, n), (b, m) = schedule.coefficients(t), schedule.coefficients(s)
    factor = ((a * b * TAU**2 + n * m) / (a**2 * TAU**2 + n**2)).reshape(4, 1, 1, 1)
    wanted = b.reshape(4, 1, 1, 1) * MU + factor * (x - a.reshape(4, 1, 1, 1) * MU)
    torch.testing.assert_close(stepped, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
def test_heuns_step_is_that_of_the_sampler_for_each_sample(schedule: Schedule):
    exact = GaussianDenoiser(schedule, MU, TAU)
    pairs = [(1.0, 0.6), (0.7, 0.3), (0.4, 0.39), (0.1, 0.0)]
    x = design(4) * 1.3
    t, s = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    stepped = HeunSolve()(exact, x, t, s, Cond())
    for i, (start, end) in enumerate(pairs):
        alone = trapezoid(Denoise(exact, Cond(), schedule), x[i : i + 1], schedule.level(start), schedule.level(end))
        torch.testing.assert_close(stepped[i : i + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
def test_every_halving_of_64_steps_is_exact_down_to_one(schedule: Schedule):
    first = factors(schedule, 64)
    taught, known = teacher(schedule), first
    for steps in (32, 16, 8, 4, 2, 1):
        objective = ProgressiveObjective(taught, TruncatedSNRWeighting(), TrailingSpacing(), 2 * steps)
        pairs = known[0::2] * known[1::2]
        student = denoiser(schedule, student_gain(schedule, pairs))
        objective.check(student)
        loss = objective(student, design(steps), Cond(), randomness=FourPoints(every(steps)))
        assert loss.unweighted is not None
        assert float(loss.unweighted.detach().max()) < 1e-20
        loss.total.mean().backward()
        assert abs(float(student.network.scale.grad)) < 1e-10
        taught, known = teacher(schedule, student_gain(schedule, pairs)), pairs
    one = student.jump(torch.full((1, 1, 2, 2), 1.9, dtype=torch.float64), 1.0, 0.0)
    wanted = MU + float(first.prod()) * (1.9 - float(schedule.level(1.0).alpha) * MU)
    assert float((one - wanted).detach().abs().max()) < 1e-11


@pytest.mark.parametrize("schedule", SCHEDULES, **named)
def test_a_perturbed_student_loses_what_it_should(schedule: Schedule):
    """E (gain h (x - alpha mu))^2 = (gain h nu)^2, times max(SNR, 1)."""
    known, h = factors(schedule, 8), 1e-2
    gain = student_gain(schedule, known[0::2] * known[1::2])
    student = denoiser(schedule, gain)
    student.network.scale.data += h
    objective = ProgressiveObjective(teacher(schedule), TruncatedSNRWeighting(), TrailingSpacing(), 8)
    loss = objective(student, design(4), Cond(), randomness=FourPoints(every(4)))
    t = torch.arange(1, 5, dtype=torch.float64) / 4
    alpha, sigma = schedule.coefficients(t)
    wanted = (gain(t) * h * spread(schedule, t)) ** 2
    torch.testing.assert_close(loss.unweighted, wanted, rtol=1e-9, atol=0)
    torch.testing.assert_close(loss.total, wanted * ((alpha / sigma) ** 2).clamp(min=1), rtol=1e-9, atol=0)


def test_the_teacher_may_have_another_schedule():
    """The same data in the same noise: the loss of the exact student on its own schedule stays 0."""
    schedule, other = ContinuousCosineSchedule(log_snr_min=-12.0), ContinuousCosineSchedule(log_snr_min=-20.0)
    known = factors(schedule, 8)
    student = denoiser(schedule, student_gain(schedule, known[0::2] * known[1::2]))
    for theirs in (other, FlowSchedule()):
        objective = ProgressiveObjective(teacher(theirs), TruncatedSNRWeighting(), TrailingSpacing(), 8)
        objective.check(student)
        loss = objective(student, design(4), Cond(), randomness=FourPoints(every(4)))
        assert loss.unweighted is not None
        assert float(loss.unweighted.detach().max()) < 1e-18


def test_what_cannot_be_halved_is_refused():
    schedule = ContinuousCosineSchedule()

    def made(steps: int, spacing=None, taught=None) -> ProgressiveObjective:
        return ProgressiveObjective(
            taught or teacher(schedule), TruncatedSNRWeighting(), spacing or TrailingSpacing(), steps
        )

    student = denoiser(schedule, lambda t: t)
    with pytest.raises(ValueError, match=r"7 are odd; set objective\.teacher_steps"):
        made(7)
    with pytest.raises(ValueError, match="does not visit every second time"):
        made(8, KarrasSpacing()).check(student)
    halved = teacher(schedule)
    halved.config = {"objective": {"_target_": "a.ProgressiveObjective", "teacher_steps": 16}}
    made(8, taught=halved).check(student)
    with pytest.raises(ValueError, match=r"was distilled to 8 steps.*set objective\.teacher_steps=8"):
        made(16, taught=halved).check(student)
    with pytest.raises(ValueError, match=r"ends at sigma/alpha = .*, where the teacher, whose own ends at 80"):
        made(8, taught=teacher(EDMSchedule())).check(student)
