"""BDIA: an inverse in closed form, for any network and any number of steps."""

from __future__ import annotations

import pytest
import torch
from exact import ContinuousVP, Exploding, Flow, noise
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.sampler import BDIASampler, DDIMSampler
from diffusion.schedule.base import Schedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.spacing.log_snr import LogSNRSpacing
from diffusion.testing import check_order
from diffusion.types import Cond, Prediction


class Folded:
    """A network that is no posterior mean: a wave along x of slope 0 to 1, at alpha = 0 as elsewhere."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, x: Tensor, t: float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        level = self.schedule.level(t)
        u = x / (level.alpha + level.sigma)
        x0 = (u + torch.sin(u + t)) / 2
        return Prediction(x0, (x - level.alpha * x0) / max(level.sigma, 1e-9))


@pytest.mark.parametrize("steps", [2, 3, 10, 200])
@pytest.mark.parametrize("schedule", [LinearSchedule(), Flow(), Exploding()], ids=lambda s: type(s).__name__)
def test_what_was_inverted_comes_back_to_rounding(schedule: Schedule, steps: int) -> None:
    denoiser, x0 = Folded(schedule), noise(8, 3)
    sampler = BDIASampler(steps)
    back = sampler(denoiser, torch.zeros_like(x0), start=sampler.inverse(denoiser, x0))
    cleanest = sampler.levels(schedule)[-2].noise  # where x_0 does not follow x, rounding grows by 1 / (sigma / alpha)
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-13 / min(cleanest, 1))
    ddim = DDIMSampler(steps)
    if steps < 200:
        assert (ddim(denoiser, torch.zeros_like(x0), start=ddim.inverse(denoiser, x0)) - x0).abs().max() > 0.01


@pytest.mark.parametrize("to", [0.3, 0.7, 1.0])
def test_it_comes_back_from_a_time_and_in_single_precision(to: float) -> None:
    denoiser, x0 = Folded(LinearSchedule()), noise(8, 3, dtype=torch.float32)
    sampler = BDIASampler(20)
    reached = sampler.inverse(denoiser, x0, to=to)
    assert reached.t < to, "the second level, beside x at the first"
    back = sampler(denoiser, torch.zeros_like(x0), start=reached)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-4)


def test_its_noise_is_that_of_the_exact_flow() -> None:
    """x at ``to`` is the flow's, to the order of the solver, and so is what is drawn from it under a new mean."""
    schedule, x0 = ContinuousVP(), noise(8, 2)
    denoiser, moved = GaussianDenoiser(schedule, 0.0, 0.6), GaussianDenoiser(schedule, 1.0, 0.6)
    sampler = BDIASampler(200, LogSNRSpacing())
    torch.testing.assert_close(
        sampler.invert(denoiser, x0, to=0.6), denoiser.transport(x0, 0.0, 0.6), rtol=0, atol=0.01
    )
    reached = sampler.inverse(denoiser, x0, to=0.6)
    there = moved.transport(denoiser.transport(x0, 0.0, 0.6), 0.6, 0.0)
    torch.testing.assert_close(sampler(moved, x0, start=reached), there, rtol=0, atol=0.02)


def test_damped_steps_are_of_order_one_and_come_back_as_well() -> None:
    assert BDIASampler(10, gamma=0.8).order == 1
    check_order(lambda n: BDIASampler(n, gamma=0.8))
    denoiser, x0 = Folded(LinearSchedule()), noise(8, 3)
    sampler = BDIASampler(30, gamma=0.8)
    torch.testing.assert_close(sampler(denoiser, x0, start=sampler.inverse(denoiser, x0)), x0, rtol=0, atol=1e-7)


def test_what_has_no_exact_inverse_is_refused() -> None:
    denoiser, x0 = GaussianDenoiser(ContinuousVP()), noise(2, 2)
    for gamma in (0.0, 1.1):
        with pytest.raises(ValueError, match=r"gamma lies in \(0, 1\], got .* set sampler\.gamma"):
            BDIASampler(10, gamma=gamma)
    with pytest.raises(ValueError, match=r"2 steps or more .* set sampler\.steps"):
        BDIASampler(1).inverse(denoiser, x0)
    with pytest.raises(ValueError, match=r"single step from alpha = 0 .* sampler\.steps to 2"):
        BDIASampler(1).invert(GaussianDenoiser(Flow()), x0)
