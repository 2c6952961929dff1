"""Twisted particles against posteriors that are known: they are reached as particles grow."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from exact import Mixture
from test_guidance_measurement import Dense
from torch import Tensor

from diffusion.guidance.twisted import TwistedGuidance
from diffusion.operator.mask import MaskOperator
from diffusion.randomness import SAMPLING, KeyedRandomness
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.schedule.posterior import between

NOISE = 0.3
FIRST = MaskOperator(box=[0, 1, 1, 1])
PAIR = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
ZERO, EYE = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)


def sampled(denoiser, sampler, y: float, count: int, **settings) -> Tensor:
    """Samples (N, 2) of two pixels, the first of which is measured."""
    generator = torch.Generator().manual_seed(0)

    def randn_like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    measurement = torch.tensor([[[y, 0.0]]], dtype=torch.float64)
    guided = TwistedGuidance(denoiser, FIRST, measurement, simulate=False, noise=NOISE, **settings)
    return sampler(guided, randn_like(torch.empty(count, 1, 1, 2, dtype=torch.float64)), randn_like=randn_like)[:, 0, 0]


def posterior_of_the_chain(schedule, steps: int, y: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the x_0 of an ancestral chain of linear steps given its first noise x_T and y, the noise
    integrated out: of x_0 ~ N(M x_T, S) given x_T."""
    sampler = AncestralSampler(steps)
    levels = sampler.levels(schedule)
    M, S = EYE * schedule.prior_std(levels[0]), 0 * EYE
    for cur, nxt in pairwise(levels):
        q = between(cur, nxt)
        linear = cur.alpha * PAIR @ torch.linalg.inv(cur.alpha**2 * PAIR + cur.sigma**2 * EYE)  # D = linear x
        step = q.x0 * linear + q.x * EYE
        M, S = step @ M, step @ S @ step.T + q.small * EYE
    gain = S[:, :1] / (S[0, 0] + NOISE**2)
    left = EYE - gain @ EYE[:1]
    return gain[:, 0] * y, left @ S + left @ M @ M.T @ left.T


@pytest.mark.parametrize("schedule", [CosineSchedule(), FlowSchedule()])
@pytest.mark.parametrize("resample_below", [0.5, 1.0])
def test_particles_of_a_gaussian_reach_the_posterior_of_the_very_chain(schedule, resample_below: float) -> None:
    """With few levels, where guidance alone is far from it: no error of discretisation is in the comparison."""
    count, steps, y = 3000, 6, 2.0
    mean, covariance = posterior_of_the_chain(schedule, steps, y)
    off = {}
    for particles in (1, 8, 256):
        out = sampled(
            Dense(schedule, ZERO, PAIR),
            AncestralSampler(steps),
            y,
            count,
            particles=particles,
            sigma_data=0.6,
            resample_below=resample_below,
        )
        off[particles] = float((out.mean(0) - mean).abs().max()), float((torch.cov(out.T) - covariance).abs().max())
    largest = float(covariance.diagonal().max())
    within = 4 * math.sqrt(largest / count), 5 * largest * math.sqrt(2 / count)  # of the mean, of the covariance
    assert off[256][0] < within[0]
    assert off[256][1] < within[1]
    assert off[1][0] > 1.5 * off[8][0] > 3 * within[0], "one particle is guidance, which is not exact"


def test_particles_of_two_modes_have_the_integrated_posterior() -> None:
    """Modes at (-1, -1) and (1, 1), y = 0.15 of the first pixel: the other pixel follows its mode."""
    std, y, count = 0.5, 0.15, 1500
    centre = torch.ones(2, dtype=torch.float64)
    line = torch.linspace(-5, 5, 801, dtype=torch.float64)
    first, second = torch.meshgrid(line, line, indexing="ij")
    density = sum(torch.exp(-((first - m) ** 2 + (second - m) ** 2) / (2 * std**2)) for m in (-1, 1))
    density = density * torch.exp(-((first - y) ** 2) / (2 * NOISE**2))
    hidden = density.sum(0) / density.sum()
    wanted = {
        "mean": float((hidden * line).sum()),
        "second moment": float((hidden * line**2).sum()),
        "share above 0": float(hidden[line > 0].sum() + hidden[line == 0].sum() / 2),
        "share above 1": float(hidden[line > 1].sum()),
    }
    out = sampled(Mixture(CosineSchedule(), centre, std), AncestralSampler(150), y, count, particles=32)[:, 1]
    found = {
        "mean": out,
        "second moment": out**2,
        "share above 0": (out > 0).double(),
        "share above 1": (out > 1).double(),
    }
    for name, value in found.items():
        assert float(value.mean()) == pytest.approx(wanted[name], abs=4 * float(value.std()) / math.sqrt(count)), name


def test_a_sample_has_particles_of_its_own() -> None:
    """Sample 1 beside another and alone; and a sampler with two calls a step gives levels as one with one does."""
    denoiser, y = Dense(CosineSchedule(), ZERO, PAIR), torch.tensor([[[[1.0, 0.0]]], [[[2.0, 0.0]]]]).double()

    def drawn(index: list[int], sampler) -> Tensor:
        randomness = KeyedRandomness(index, seed=0, stream=SAMPLING)
        guided = TwistedGuidance(denoiser, FIRST, y[index], simulate=False, noise=NOISE, particles=8)
        noise = randomness.randn_like(torch.empty(len(index), 1, 1, 2, dtype=torch.float64))
        return sampler(guided, noise, randn_like=randomness.randn_like)

    both = drawn([0, 1], AncestralSampler(8))
    torch.testing.assert_close(drawn([1], AncestralSampler(8)), both[1:])
    torch.testing.assert_close(drawn([0, 1], HeunSampler(8)).shape, both.shape)


@pytest.mark.parametrize(
    "settings", [{"noise": 0.0}, {"sigma_data": 0.0}, {"particles": 0}, {"resample_below": 1.5}], ids=str
)
def test_settings_without_a_meaning_are_refused(settings) -> None:
    with pytest.raises(ValueError, match=r"set guidance\.twisted"):
        TwistedGuidance(Dense(CosineSchedule(), ZERO, PAIR), FIRST, torch.zeros(1, 1, 2), **settings)
