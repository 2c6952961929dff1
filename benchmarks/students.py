"""Rows 15 and 16: a few-step student's loss with its gradient, against the bare network passes that it is made of.

The digits' network (0.7M parameters, 8x8, batch 64), or one of 64 channels on 16x16 images, batch 8. Row 15:
consistency distillation by Heun's steps is one pass with a gradient, one of the target and two of the teacher. Row 16:
mean flows and continuous consistency are one pass in forward mode with a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.harness import Row, counts, race, ratio
from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.unet import UNet
from diffusion.objective import (
    ConsistencyDistillationObjective,
    ContinuousConsistencyObjective,
    MeanFlowObjective,
)
from diffusion.objective.base import Objective, Step
from diffusion.objective.metric import SquaredMetric
from diffusion.objective.pairs import NeighbourPairs
from diffusion.objective.pairs.draws import DrawsPairs
from diffusion.objective.solve import HeunSolve
from diffusion.objective.time_distribution.log_normal import LogNormalTimeDistribution
from diffusion.objective.time_distribution.logit_normal import LogitNormalTimeDistribution
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.schedule.continuous_cosine import ContinuousCosineSchedule
from diffusion.spacing.karras import KarrasSpacing
from diffusion.types import Cond

CONSISTENCY, DERIVATIVE = "its four network passes", "one pass in forward mode"


def rows(budget: float = 120.0, small: bool = False) -> list[Row]:
    """Rows 15 and 16, of the digits' network alone where small."""
    found = []
    for channels, size, batch in [(32, 8, 64), *([] if small else [(64, 16, 8)])]:
        found += _rows(channels, size, batch, budget if small else budget / 2)
    return found


def _rows(channels: int, size: int, batch: int, budget: float) -> list[Row]:
    def denoiser(*numbers: str) -> NetworkDenoiser:
        network = UNet(1, size, channels=channels, channel_mult=[1, 2], num_res_blocks=1, attention=[size // 2],
                       numbers=numbers)  # fmt: skip
        return NetworkDenoiser(network, schedule, VelocityParameterization())

    schedule = ContinuousCosineSchedule(log_snr_min=-8.764)
    x0, c_noise = torch.randn(batch, 1, size, size), 1000 * torch.rand(batch)
    student, jumps, taught = denoiser(), denoiser("to"), denoiser().requires_grad_(False)
    draws = LogitNormalTimeDistribution()
    objectives: dict[str, tuple[Objective, NetworkDenoiser]] = {
        "consistency": (
            ConsistencyDistillationObjective(
                DiffusionModel(taught, shape=(1, size, size)), NeighbourPairs(KarrasSpacing()), HeunSolve(),
                SquaredMetric(), rate=0.95,
            ), student),
        "mean flow": (MeanFlowObjective(DrawsPairs(draws, draws)), jumps),
        "continuous": (ContinuousConsistencyObjective(LogNormalTimeDistribution(), sigma_data=1.0), student),
    }  # fmt: skip
    for objective, denoiser_ in objectives.values():
        objective.check(denoiser_)

    def passes() -> None:
        student.network(x0, c_noise, Cond()).square().mean().backward()
        with torch.no_grad():
            for _ in range(3):
                taught.network(x0, c_noise, Cond())
        student.zero_grad()

    def derivative(of: NetworkDenoiser, numbers: dict[str, Any]) -> Callable[[], None]:
        cond = Cond(numbers=numbers)

        def run() -> None:
            with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
                pair = (forward_ad.make_dual(value, torch.ones_like(value)) for value in (x0, c_noise))
                value, rate = forward_ad.unpack_dual(of.network(*pair, cond))
            (value - rate.detach()).square().mean().backward()
            of.zero_grad()

        return run

    runs: dict[str, Callable[[], object]] = {name: _step(*pair, x0) for name, pair in objectives.items()}
    runs |= {"passes": passes, "derivative": derivative(student, {}),
             "derivative of a jump": derivative(jumps, {"to": c_noise / 2})}  # fmt: skip
    timings = race(runs, budget)
    where = f"{sum(p.numel() for p in student.parameters()) / 1e6:.1f}M, {size}x{size}, batch {batch}: time"
    lines = (
        ("15", "consistency distillation", "consistency", "passes", CONSISTENCY, 1.15, 1.05),
        ("16", "mean flow", "mean flow", "derivative of a jump", DERIVATIVE, 1.1, 1.05),
        ("16", "continuous consistency", "continuous", "derivative", DERIVATIVE, 1.1, 1.05),
    )
    return [
        Row(row, f"{what}, loss and gradient, {where}", against, ratio(timings, ours, bare), must, aim, True,
            counts(timings, ours, bare))
        for row, what, ours, bare, against, must, aim in lines
    ]  # fmt: skip


def _step(objective: Objective, denoiser: NetworkDenoiser, x0: torch.Tensor) -> Callable[[], None]:
    number = 0

    def run() -> None:
        nonlocal number
        number += 1
        drawn = KeyedRandomness(range(len(x0)), seed=0, stream=TRAINING, step=number)
        step = Step(number, 100_000, None, nullcontext)
        objective(denoiser, x0, Cond(), randomness=drawn, step=step).total.mean().backward()
        denoiser.zero_grad()
        objective.after_step(denoiser, step)

    return run
