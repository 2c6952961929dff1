"""The contracts of what is stated in noise levels: schedules, spacings, targets and weightings."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.objective.base import Weighting
from diffusion.parameterization.base import Parameterization
from diffusion.schedule.base import Schedule
from diffusion.types import Spacing


def check_schedule(schedule: Schedule) -> None:
    """sigma / alpha grows strictly with t, coefficients are finite float64, and ``time`` inverts the noise level.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    name = type(schedule).__name__
    times = torch.linspace(0, 1, 129, dtype=torch.float64)
    for part, value in (("alpha", schedule.alpha(times)), ("sigma", schedule.sigma(times))):
        assert value.shape == times.shape and value.dtype == torch.float64, (
            f"{name}.{part}(t) gives {value.dtype} {list(value.shape)} for t of {list(times.shape)}: it keeps the "
            "shape and gives float64"
        )
        wrong = ~(torch.isfinite(value) & (value >= 0))
        assert not wrong.any(), f"{name}.{part} is {_at(value, wrong)} at t = {_at(times, wrong)}: it is 0 or more"
    try:
        schedule.check()
    except ValueError as error:
        raise AssertionError(str(error)) from None
    for t in (0.0, 0.25, 0.6, 1.0):
        at = torch.tensor(t, dtype=torch.float64)
        level, pair = schedule.level(t), schedule.coefficients(at)
        assert math.isclose(level.alpha, float(pair[0]), abs_tol=1e-9) and math.isclose(
            level.sigma, float(pair[1]), abs_tol=1e-9
        ), f"{name}.level({t}) and {name}.coefficients({t}) differ: both give alpha and sigma at t"
    for t in (0.2, 0.7):
        found = schedule.time(schedule.level(t).noise)
        assert abs(found - t) < 1e-6, (
            f"{name}.time gives t = {found:.6g} for the noise level at t = {t}: it inverts sigma / alpha"
        )


def check_spacing(spacing: Spacing, schedule: Schedule, steps: int = 10) -> None:
    """Strictly decreasing times in [0, 1] that end at 0.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    name, times = type(spacing).__name__, spacing(schedule, steps)
    assert len(times) >= 2 and times[-1] == 0.0, f"{name} gives {times}: a spacing ends at time 0, clean data"
    assert times[0] <= 1.0, f"{name} begins at {times[0]}: times lie in [0, 1]"
    for earlier, later in pairwise(times):
        assert later < earlier, f"{name} visits {earlier} and then {later}: times decrease strictly from noise to data"
    assert len(times) <= steps + 1, f"{name} gives {len(times) - 1} steps where {steps} were asked for"


def check_parameterization(parameterization: Parameterization) -> None:
    """What a network that hits its target gives is the data and the noise again, at every level between the ends.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    name = type(parameterization).__name__
    x0, eps = (torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=_seeded(seed)) for seed in (0, 1))
    for alpha, sigma in ((0.9, 0.436), (0.6, 0.8), (0.3, 0.7), (1.0, 5.0)):
        x = alpha * x0 + sigma * eps
        target = parameterization.encode(x0, eps, alpha, sigma)
        assert target.shape == x0.shape, f"{name}.encode gives {list(target.shape)} for data of {list(x0.shape)}"
        if parameterization.outputs > 1:  # its network's output is no single target
            continue
        d = float(parameterization.determinant(alpha, sigma))
        assert d != 0, (
            f"{name} does not determine both the data and the noise at alpha = {alpha}, sigma = {sigma}: "
            "its coefficients (a, b) are not in proportion to (alpha, sigma)"
        )
        more = [torch.zeros_like(target)] if parameterization.learned_variance else []
        found = parameterization.decode(torch.cat([target, *more], dim=1), x, alpha, sigma)
        for what, got, wanted in (("x_0", found.x0, x0), ("eps", found.eps, eps)):
            assert torch.allclose(got, wanted, atol=1e-8), (
                f"{name}.decode does not give back the {what} that {name}.encode was given, at alpha = {alpha}, "
                f"sigma = {sigma}"
            )


def check_weighting(weighting: Weighting) -> None:
    """Weights are finite and at least 0 at all noise levels, and not 0 at all of them.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    name = type(weighting).__name__
    log_snr = torch.linspace(-25, 25, 201, dtype=torch.float64)
    for call, weights in (
        ("on_x0", weighting.on_x0(log_snr)),
        ("on_target", weighting.on_target(log_snr, (-log_snr).exp())),
    ):
        assert weights.shape == log_snr.shape, (
            f"{name}.{call} gives {list(weights.shape)} for log-SNRs of {list(log_snr.shape)}: one weight a sample"
        )
        wrong = ~torch.isfinite(weights)
        assert not wrong.any(), f"{name}.{call} is {_at(weights, wrong)} at log-SNR {_at(log_snr, wrong)}: not finite"
        wrong = weights < 0
        assert not wrong.any(), (
            f"{name}.{call} is negative, {_at(weights, wrong)} at log-SNR {_at(log_snr, wrong)}: training would make "
            "the error there larger; a weight is at least 0"
        )
        assert (weights > 0).any(), f"{name}.{call} is 0 at every log-SNR: nothing would be trained"


def _at(values: Tensor, where: Tensor) -> str:
    return f"{float(values[where][0]):.4g}"


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
