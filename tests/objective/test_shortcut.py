"""Shortcut models against the exact flow map of a Gaussian, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from flow_maps import (
    MEAN,
    STD,
    Design,
    ExactMap,
    design,
    measured,
    spread,
)
from torch import Tensor

from diffusion.objective.base import Step
from diffusion.objective.shortcut import ShortcutObjective
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.schedule.edm import EDMSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.types import Cond, Prediction

SCHEDULES = [FlowSchedule(), FlowSchedule(3.0), ContinuousCosineSchedule(), EDMSchedule()]
named = {"ids": lambda part: type(part).__name__}


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
