"""Reflow: the straight paths of a Gaussian's own coupling, and pairs that are drawn once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from flow_maps import MEAN, STD, design, one_step_error, trained
from test_continuous_consistency import PlaneTeacher, exact_teacher
from torch import Tensor, nn

from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.frozen import Identity
from diffusion.model import DiffusionModel
from diffusion.network.mlp import MLP
from diffusion.objective.metric.squared import SquaredMetric
from diffusion.objective.reflow import Kept, ReflowObjective, undropped
from diffusion.objective.solve.base import Solve
from diffusion.objective.solve.heun import HeunSolve
from diffusion.objective.time_distribution.listed import ListedTimeDistribution
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.parameterization.flow import FlowParameterization
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.spacing.linspace import LinspaceSpacing
from diffusion.types import Cond, Prediction


class ExactSolve(Solve):
    """The ODE of the Gaussian itself."""

    def __call__(self, denoiser: Any, x: Tensor, t: Tensor, s: Tensor, cond: Cond) -> Tensor:
        return GaussianDenoiser(denoiser.schedule, MEAN, STD).transport(x, float(t[0]), float(s[0]))


class Straight(nn.Module):
    """The velocity of the coupling x_0 = mean + std eps, times a parameter."""

    schedule = FlowSchedule()

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.network = nn.Identity()

    def forward(self, x: Tensor, t: Any, cond: Cond) -> Prediction:
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))[:, None]
        v = self.gain * (-MEAN + (1 - STD) * (x - (1 - t) * MEAN) / ((1 - t) * STD + t))
        return Prediction(x - t * v, x + (1 - t) * v)


def reflow(times: Any, solve: Solve | None = None, steps: int = 1, **options: Any) -> ReflowObjective:
    teacher = options.pop("teacher", None) or exact_teacher(FlowSchedule())
    return ReflowObjective(teacher, solve or ExactSolve(), LinspaceSpacing(), SquaredMetric(), times, steps, **options)


def losses(objective: Any, model: nn.Module) -> tuple[Tensor, float]:
    x0, source = design()
    loss = objective(model, x0, Cond(), randomness=source).total
    return loss.detach(), float(torch.autograd.grad(loss.mean(), model.gain)[0])


@pytest.mark.parametrize("t", [1.0, 0.7, 0.2])
def test_the_straight_flow_of_the_teachers_coupling_has_no_loss_and_one_step_is_exact(t: float) -> None:
    """With the velocity times 1 + d each loss is d^2 (eps - x_0)^2."""
    model, objective = Straight(), reflow(ListedTimeDistribution([t]))
    found, gradient = losses(objective, model)
    assert found.max() < 1e-20
    assert abs(gradient) < 1e-10
    with torch.no_grad():
        model.gain += 0.1
    _, source = design()
    end = MEAN + STD * source.eps
    torch.testing.assert_close(losses(objective, model)[0], (0.1 * (source.eps - end)).square().flatten())
    with torch.no_grad():
        one = Straight()(source.eps, 1.0, Cond()).x0
    torch.testing.assert_close(one, end)


def test_the_flow_before_it_gives_the_mean_in_one_step() -> None:
    _, source = design()
    said = GaussianDenoiser(FlowSchedule(), MEAN, STD)(source.eps, 1.0).x0
    torch.testing.assert_close(said, torch.full_like(said, MEAN))


def test_heuns_pairs_approach_the_odes_at_its_order() -> None:
    model = Straight()
    errors = [
        float(losses(reflow(ListedTimeDistribution([1.0]), HeunSolve(), n), model)[0].max() ** 0.5) for n in (20, 40)
    ]
    assert 0.15 < errors[1] / errors[0] < 0.5
    assert errors[1] < 0.02


def student() -> NetworkDenoiser:
    return NetworkDenoiser(MLP(2, 1, width=16, depth=1), FlowSchedule(), FlowParameterization())


def named_teacher() -> DiffusionModel:
    teacher = DiffusionModel(PlaneTeacher(FlowSchedule()))  # type: ignore[arg-type]
    teacher.identity = Identity("somewhere", "last", "ema", "0123abcd")
    return teacher


def at(index: list[int], step: int) -> KeyedRandomness:
    return KeyedRandomness(index, seed=0, stream=TRAINING, step=step)


def test_a_sample_has_one_pair_which_is_drawn_once_and_found_again(tmp_path: Path) -> None:
    calls: list[int] = []

    class Counting(HeunSolve):
        def __call__(self, denoiser: Any, x: Tensor, *rest: Any) -> Tensor:
            calls.append(len(x))
            return super().__call__(denoiser, x, *rest)

    def objective() -> ReflowObjective:
        options = {"folder": str(tmp_path / "reflow"), "teacher": named_teacher()}
        return reflow(ListedTimeDistribution([1.0]), Counting(), 2, **options)

    first, model, x0 = objective(), student(), torch.zeros(4, 2, 1, 1)
    one = first(model, x0, Cond(), randomness=at([3, 1, 4, 5], 0)).total
    again = first(model, x0, Cond(), randomness=at([5, 4, 1, 3], 7)).total
    assert calls == [4, 4]
    assert torch.equal(one, again.flip(0)), "at t = 1 the loss is one of the pair"
    assert [file.parent.name for file in (tmp_path / "reflow").rglob("*.pt")] == ["0123abcd"]
    resumed = objective()
    more = resumed(model, x0, Cond(), randomness=at([3, 9, 4, 8], 8)).total
    assert calls == [4, 4, 2, 2], "what was drawn before is read, and the rest is drawn"
    torch.testing.assert_close(more[[0, 2]], one[[0, 2]], rtol=1e-6, atol=0)
    first(model.eval(), x0, Cond(), randomness=at([3, 1, 4, 5], 0))
    assert calls[-2:] == [4, 4], "held-out samples have pairs of their own"


def test_without_a_folder_each_step_has_new_pairs() -> None:
    objective, model, x0 = (
        reflow(ListedTimeDistribution([1.0]), HeunSolve(), 2, teacher=named_teacher()),
        student(),
        None,
    )
    x0 = torch.zeros(2, 2, 1, 1)
    one, other = (objective(model, x0, Cond(), randomness=at([0, 1], step)).total for step in (0, 1))
    assert not torch.equal(one, other)
    assert Kept(None)(at([2], 0).index, lambda rows: x0[:1], like=x0).shape == (1, 2, 1, 1)


def test_the_pairs_condition_is_not_dropped() -> None:
    source = {"label": torch.tensor([1]), "dropped": torch.tensor([True]), "dropped.text": torch.tensor([True])}
    assert undropped(Cond(source=source)).source == {"label": torch.tensor([1])}
    assert undropped(replace(Cond())).source is None


def test_listed_times_are_drawn_alike_and_wrong_settings_refused() -> None:
    t, _ = ListedTimeDistribution([1.0, 0.5])(student(), KeyedRandomness(range(4000), seed=0, stream=TRAINING))
    assert set(t.tolist()) == {0.5, 1.0}
    assert float(t.mean()) == pytest.approx(0.75, abs=0.02)
    for wrong in ([], [0.0], [1.5]):
        with pytest.raises(ValueError, match=r"objective\.time_distribution\.times"):
            ListedTimeDistribution(wrong)
    with pytest.raises(ValueError, match=r"objective\.steps"):
        reflow(ListedTimeDistribution(), steps=0)
    with pytest.raises(ValueError, match="the teacher, whose own ends at"):
        reflow(ListedTimeDistribution(), teacher=exact_teacher(ContinuousCosineSchedule(log_snr_min=-2.0))).check(
            student()
        )


LEARNED = {"reflow": (UniformTimeDistribution(), 0.15), "one step": (ListedTimeDistribution(), 0.15)}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNED)
def test_a_few_seconds_of_training_reach_the_exact_map_in_one_step(name: str) -> None:
    times, error = LEARNED[name]
    teacher = DiffusionModel(PlaneTeacher(FlowSchedule()))  # type: ignore[arg-type]
    assert one_step_error(trained(reflow(times, HeunSolve(), 6, teacher=teacher), 200)) < error
