"""The same measurement, noise and denoiser through azula's posterior samplers and through ours, in float64.

azula's DPS takes one norm over the whole batch, so that it is run on one image; its PiGDM is for measurements without
noise and has the paper's weight, which is ours with ``adaptive``: of the score itself the gradient is compared.
"""

from __future__ import annotations

import pytest
import torch
from exact import Between, ContinuousVP, Exploding, Flow, Mixture
from test_guidance_measurement import matrix
from torch import Tensor

from diffusion.guidance import DPSGuidance, MMPSGuidance, PiGDMGuidance, TMPDGuidance
from diffusion.operator import BlurOperator, DownsampleOperator, MaskOperator, Operator
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond, Prediction

peer = pytest.importorskip("azula.guidance.mmps")
from azula.guidance.dps import DPSSampler  # noqa: E402
from azula.guidance.pgdm import PGDMSampler  # noqa: E402
from azula.guidance.tmpd import TMPDenoiser  # noqa: E402
from azula.linalg.covariance import IsotropicCovariance  # noqa: E402
from azula.sample import DDIMSampler as TheirDDIM  # noqa: E402
from azula_parts import OurDenoiser, theirs  # noqa: E402

SIDE, NOISE, STEPS = 4, 0.3, 20
CLOSE = {"rtol": 0.0, "atol": 1e-9}
SCHEDULES = {
    "vp": Between(ContinuousVP(), 0.1, 0.8),
    "flow": Between(Flow(), 0.1, 0.9),
    "exploding": Between(Exploding(), 0.15, 0.5),
}
OPERATORS = {"mask": MaskOperator(box=[1, 1, 2, 2]), "x2": DownsampleOperator(2), "blur": BlurOperator(0.7)}
everywhere = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
invertible = pytest.mark.parametrize("operator", [OPERATORS["mask"], OPERATORS["x2"]], ids=["mask", "x2"])
of_all = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())


def normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Modes:
    """The exact denoiser of two modes of images; ours call it with (B, 1, 4, 4), azula's with (B, 16). Pixels go
    together, so that no row sum is below 0, where ours are cut off."""

    def __init__(self, schedule) -> None:
        self.schedule = schedule
        self.inner = Mixture(schedule, torch.linspace(0.1, 1, SIDE * SIDE).double(), 0.6)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        found = self.inner(x.reshape(len(x), -1), t)
        return Prediction(found.x0.reshape(x.shape), found.eps.reshape(x.shape))


def measured(operator: Operator) -> tuple[Tensor, Tensor]:
    """y as ours take it, and A as a matrix (outputs, 16)."""
    y = operator(normal(1, 1))
    return y + NOISE * operator(normal(1, 2)), matrix(operator)


def sampled(guided, sampler, count: int) -> Tensor:
    return sampler(guided, normal(count, 0)).flatten(1)


@everywhere
@of_all
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("solver", ["cg", "gmres"])
def test_mmps(operator: Operator, schedule, iterations: int, solver: str) -> None:
    y, A = measured(operator)

    def make(denoiser, **settings):
        guided = peer.MMPSDenoiser(
            denoiser, y.flatten(1), lambda x: x @ A.T, IsotropicCovariance(NOISE**2), solver, iterations
        )
        return TheirDDIM(guided, **settings)

    want = theirs(make, Modes(schedule), STEPS, normal(5, 0).flatten(1))
    settings = {"noise": NOISE, "iterations": iterations, "solver": solver}
    guided = MMPSGuidance(Modes(schedule), operator, y, simulate=False, **settings)
    torch.testing.assert_close(sampled(guided, DDIMSampler(STEPS, TrailingSpacing()), 5), want, **CLOSE)


@everywhere
@of_all
def test_tmpd(operator: Operator, schedule) -> None:
    y, A = measured(operator)

    def make(denoiser, **settings):
        return TheirDDIM(TMPDenoiser(denoiser, y.flatten(1), lambda x: x @ A.T, NOISE**2), **settings)

    want = theirs(make, Modes(schedule), STEPS, normal(5, 0).flatten(1))
    guided = TMPDGuidance(Modes(schedule), operator, y, simulate=False, noise=NOISE)
    torch.testing.assert_close(sampled(guided, DDIMSampler(STEPS, TrailingSpacing()), 5), want, **CLOSE)


@everywhere
@of_all
def test_dps(operator: Operator, schedule) -> None:
    y, A = measured(operator)

    def make(denoiser, **settings):
        return DPSSampler(denoiser, y.flatten(1), lambda x: x @ A.T, zeta=0.7, **settings)

    torch.manual_seed(3)
    want = theirs(make, Modes(schedule), STEPS, normal(1, 0).flatten(1))
    torch.manual_seed(3)
    guided = DPSGuidance(Modes(schedule), operator, y, simulate=False, scale=0.7)
    torch.testing.assert_close(sampled(guided, AncestralSampler(STEPS, TrailingSpacing()), 1), want, **CLOSE)


def _pigdm(denoiser, y: Tensor, A: Tensor, **settings) -> PGDMSampler:
    inverse = torch.linalg.pinv(A)
    return PGDMSampler(denoiser, y.flatten(1), lambda v: v @ A.T, lambda v: v @ inverse.T, **settings)


@everywhere
@invertible
def test_pigdm_with_the_papers_weight(operator: Operator, schedule) -> None:
    A, y = matrix(operator), operator(normal(1, 1))  # without noise, as azula's
    want = theirs(
        lambda denoiser, **settings: _pigdm(denoiser, y, A, **settings), Modes(schedule), STEPS, normal(5, 0).flatten(1)
    )
    guided = PiGDMGuidance(Modes(schedule), operator, y, simulate=False, noise=0.0, adaptive=True)
    torch.testing.assert_close(sampled(guided, DDIMSampler(STEPS, TrailingSpacing()), 5), want, **CLOSE)


@everywhere
@invertible
def test_pigdms_gradient(operator: Operator, schedule) -> None:
    """(dD / dx)^T A^T (A A^T)^-1 (y - A D): ours from the change of eps, azula's from the change of a step."""
    y, A = measured(operator)
    y = operator(normal(1, 1))  # without noise, as azula's
    x, cur, nxt = normal(5, 0), schedule.level(0.6), schedule.level(0.5)
    denoiser = Modes(schedule)
    plain, guided = denoiser(x, cur.t), PiGDMGuidance(denoiser, operator, y, simulate=False, noise=0.0)(x, cur.t)
    variance = cur.sigma**2 / (cur.sigma**2 + cur.alpha**2)
    ours = variance * (plain.eps - guided.eps) / cur.sigma

    sampler = _pigdm(OurDenoiser(denoiser), y, A)
    times = (torch.tensor(level.t, dtype=torch.float64) for level in (cur, nxt))
    step = sampler.step(x.flatten(1), *times) - plain.mix(nxt.alpha, nxt.sigma).flatten(1)
    torch.testing.assert_close(ours.flatten(1), step / (nxt.alpha * cur.alpha), **CLOSE)
