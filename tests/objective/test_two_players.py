"""Seconds of two players: a generator and the network that learns the scores of its samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flow_maps import exact_map, gaussian
from test_continuous_consistency import PlaneTeacher
from torch import Tensor, nn

from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.mlp import MLP
from diffusion.objective.distribution_matching import DistributionMatchingObjective
from diffusion.objective.score_identity import ScoreIdentityObjective
from diffusion.objective.solve.heun import HeunSolve
from diffusion.objective.time_distribution.uniform import UniformTimeDistribution
from diffusion.objective.weighting.constant import ConstantWeighting
from diffusion.parameterization.flow import FlowParameterization
from diffusion.schedule.flow import FlowSchedule
from diffusion.spacing.linspace import LinspaceSpacing
from diffusion.types import Cond, Prediction


class PlaneDenoiser(nn.Module):
    """The exact denoiser of the plane's Gaussian as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule, self.network, self.exact = FlowSchedule(), nn.Identity(), PlaneTeacher(FlowSchedule())

    def forward(self, x: Tensor, t: Any, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        return self.exact(x, t, cond)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DistributionMatchingObjective, ScoreIdentityObjective])
def test_a_few_seconds_of_two_players_reach_the_distribution_in_one_step(kind: type) -> None:
    """Its mean and covariance, to a share of the data's."""
    torch.manual_seed(0)

    def network() -> NetworkDenoiser:
        return NetworkDenoiser(MLP(2, 1, width=32, depth=1), FlowSchedule(), FlowParameterization())

    teacher, student = DiffusionModel(PlaneDenoiser()), network()  # type: ignore[arg-type]
    times = UniformTimeDistribution()
    made = kind(teacher, ConstantWeighting(), times, HeunSolve(), LinspaceSpacing(), ratio=2, low=0.1, high=0.9)
    made.fake.denoiser = network()
    optimizer, rivals = (torch.optim.Adam(p.parameters(), lr=4e-3) for p in (student, made.rival))
    generator, empty = torch.Generator().manual_seed(1), Cond()
    for _ in range(350):
        for _ in range(made.ratio):
            rivals.zero_grad()
            made.rival_loss(student, gaussian(256, generator), empty).total.mean().backward()
            rivals.step()
        optimizer.zero_grad()
        made(student, gaussian(256, generator), empty).total.mean().backward()
        optimizer.step()
    noise = torch.randn(4000, 2, 1, 1, generator=generator)
    with torch.no_grad():
        said, wanted = student(noise, 1.0).x0.flatten(1), exact_map(noise).flatten(1)
    assert float((said.mean(0) - wanted.mean(0)).norm() / wanted.std(0).norm()) < 0.15
    assert float((said.T.cov() - wanted.T.cov()).norm() / wanted.T.cov().norm()) < 0.3
