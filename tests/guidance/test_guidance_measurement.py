"""Guidance by a measurement against dense linear algebra on Gaussians, where every posterior is known."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.guidance.dps import DPSGuidance
from diffusion.guidance.inpaint import InpaintGuidance
from diffusion.guidance.pigdm import PiGDMGuidance
from diffusion.guidance.repaint import RePaintGuidance
from diffusion.operator.base import Operator
from diffusion.operator.blur import BlurOperator
from diffusion.operator.box_blur import BoxBlurOperator
from diffusion.operator.compressed import CompressedOperator
from diffusion.operator.downsample import DownsampleOperator
from diffusion.operator.fourier import FourierOperator
from diffusion.operator.mask import MaskOperator
from diffusion.operator.measurement import read
from diffusion.operator.motion_blur import MotionBlurOperator
from diffusion.operator.radon import RadonOperator
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.exponential.dpm_solver_pp_2m import DPMSolverPP2MSampler
from diffusion.schedule.base import Level
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.flow import FlowSchedule
from diffusion.types import Cond, Prediction

SIZE = 4
OPERATORS = [
    MaskOperator(box=[1, 1, 2, 2]),
    MaskOperator(hidden=0.4),
    DownsampleOperator(2),
    BlurOperator(0.7),
    BoxBlurOperator(3),
    MotionBlurOperator(2.5, 30.0),
    CompressedOperator(0.5),
    FourierOperator(1.6, 0.3),
    RadonOperator(3, iterations=40),
]
named = {"ids": lambda part: type(part).__name__}


def matrix(operator: Operator) -> Tensor:
    """A as (outputs, inputs), column by column."""
    eye = torch.eye(SIZE * SIZE, dtype=torch.float64).reshape(-1, 1, SIZE, SIZE)
    return operator(eye).flatten(1).T


def image(count: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, SIZE, SIZE, dtype=torch.float64, generator=generator)


class Dense:
    """The exact denoiser of N(mean, covariance) over the pixels of an image."""

    def __init__(self, schedule, mean: Tensor, covariance: Tensor) -> None:
        self.schedule, self.mean, self.covariance = schedule, mean, covariance

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        level: Level = self.schedule.level(float(t))
        spread = level.alpha**2 * self.covariance + level.sigma**2 * torch.eye(len(self.mean), dtype=torch.float64)
        centred = torch.linalg.solve(spread, (x.flatten(1) - level.alpha * self.mean).T).T
        x0 = self.mean + level.alpha * centred @ self.covariance
        return Prediction(x0.reshape(x.shape), (level.sigma * centred).reshape(x.shape))


@pytest.mark.parametrize("operator", OPERATORS, **named)
def test_solve_is_the_inverse_that_it_says(operator: Operator) -> None:
    A, spread, noise = matrix(operator), 0.7, 0.3
    residual = operator(image(3))
    dense = spread * A @ A.T + noise * torch.eye(len(A), dtype=torch.float64)
    wanted = torch.linalg.solve(dense, residual.flatten(1).T).T.reshape(residual.shape)
    torch.testing.assert_close(operator.solve(residual, spread, noise), wanted)


def test_operators_do_what_they_are_called() -> None:
    x = image()
    seen = MaskOperator(box=[1, 1, 2, 2])(x)
    assert seen[0, 0, 1:3, 1:3].abs().max() == 0
    assert (seen != x).sum() == 4
    torch.testing.assert_close(DownsampleOperator(2)(x)[0, 0, 0, 0], x[0, 0, :2, :2].mean())
    spot = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    spot[..., 4, 4] = 1
    blurred = BlurOperator(1.0)(spot)[0, 0]
    place = torch.arange(9, dtype=torch.float64) - 4
    assert float(blurred.sum()) == pytest.approx(1)
    assert float((blurred.sum(0) * place**2).sum()) == pytest.approx(1.0, abs=0.05)  # width^2
    torch.testing.assert_close(BlurOperator(1.0)(torch.ones_like(spot)), torch.ones_like(spot))


@pytest.mark.parametrize("operator", OPERATORS, **named)
@pytest.mark.parametrize("schedule", [CosineSchedule(), FlowSchedule()])
@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_pigdm_on_gaussian_data_is_the_exact_posterior(operator: Operator, schedule, t: float) -> None:
    """p(x_0 | y) of Gaussian data is Gaussian: the guided denoiser is its own, over the whole chain."""
    std, noise, y = 0.8, 0.2, image(seed=1)
    A, eye = matrix(operator), torch.eye(SIZE * SIZE, dtype=torch.float64)
    covariance = torch.linalg.inv(eye / std**2 + A.T @ A / noise**2)
    mean = covariance @ A.T @ operator(y).flatten() / noise**2
    x = image(3)
    guided = PiGDMGuidance(GaussianDenoiser(schedule, 0.0, std), operator, y, noise=noise, sigma_data=std)
    said, wanted = guided(x, t), Dense(schedule, mean, covariance)(x, t)
    torch.testing.assert_close(said.x0, wanted.x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(said.eps, wanted.eps, rtol=1e-6, atol=1e-6)
    assert not said.x0.requires_grad


@pytest.mark.parametrize("operator", OPERATORS, **named)
def test_samples_explain_the_measurement(operator: Operator) -> None:
    torch.manual_seed(0)
    y, std = image(seed=1).clamp(-1, 1), 0.8
    wanted, free = operator(y), DDIMSampler(50)(GaussianDenoiser(CosineSchedule(), 0.0, std), image(8))
    for guided, sampler in (
        (
            PiGDMGuidance(GaussianDenoiser(CosineSchedule(), 0.0, std), operator, y, noise=0.02, sigma_data=std),
            DPMSolverPP2MSampler(30),
        ),
        (DPSGuidance(GaussianDenoiser(CosineSchedule(), 0.0, std), operator, y, scale=0.6), AncestralSampler(200)),
    ):
        out = sampler(guided, image(8))
        error, before = (operator(out) - wanted).std(), (operator(free) - wanted).std()
        assert error < 0.35 * before
        assert not out.requires_grad


def test_dps_moves_down_the_gradient_after_the_step() -> None:
    """One step, the gradient of the dense problem by hand: x_0 = gain x, so grad ||y - A gain x|| is closed form."""
    operator, y, x, schedule = DownsampleOperator(2), image(seed=1), image(2), CosineSchedule(T=10)
    plain = GaussianDenoiser(schedule, 0.0, 0.8)
    levels = DDIMSampler(10).levels(schedule)
    seen: list[Tensor] = []
    DDIMSampler(10)(DPSGuidance(plain, operator, y, scale=0.3), x, on_step=lambda i, level, x, x0: seen.append(x))
    gain = float(plain(torch.ones_like(x), levels[0].t).x0[0, 0, 0, 0])
    A = matrix(operator)
    residual = operator(y).flatten() - gain * x.flatten(1) @ A.T
    gradient = -gain * residual @ A / residual.norm(dim=1, keepdim=True)
    said = plain(x, levels[0].t)
    step = levels[1].alpha * said.x0 + levels[1].sigma * said.eps
    torch.testing.assert_close(seen[0], step - 0.3 * gradient.reshape(x.shape))
    torch.testing.assert_close(
        DDIMSampler(10)(DPSGuidance(plain, operator, y, scale=0.0), x), DDIMSampler(10)(plain, x)
    )


@pytest.mark.parametrize("kind", [InpaintGuidance, RePaintGuidance])
@pytest.mark.parametrize("sampler", [DDIMSampler(20), AncestralSampler(20)])
def test_seen_pixels_come_out_as_they_were(kind: type, sampler) -> None:
    mask, y = MaskOperator(box=[1, 1, 2, 2]), image(seed=1)
    out = sampler(kind(GaussianDenoiser(CosineSchedule(), 0.0, 0.8), mask, y), image(4))
    torch.testing.assert_close(mask(out), mask(y).expand_as(out))
    assert (out[:, 0, 1, 1] != y[0, 0, 1, 1]).all()


def test_repaint_makes_the_hidden_part_agree() -> None:
    """Strongly correlated pixels: the hidden one's conditional mean is known; replacement alone misses it."""
    covariance = 0.9 * torch.ones(2, 2, dtype=torch.float64) + 0.1 * torch.eye(2, dtype=torch.float64)
    denoiser = Dense(CosineSchedule(), torch.zeros(2, dtype=torch.float64), covariance)
    y, mask = torch.tensor([[[2.0, 0.0]]], dtype=torch.float64), MaskOperator(box=[0, 1, 1, 1])
    noise = torch.randn(2000, 1, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def randn_like(x: Tensor, generator=torch.Generator().manual_seed(1)) -> Tensor:  # noqa: B008
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    def miss(guided) -> float:
        hidden = AncestralSampler(25)(guided, noise, randn_like=randn_like)[:, 0, 0, 1]
        return abs(float(hidden.mean()) - 0.9 * 2.0)

    plain, once = miss(InpaintGuidance(denoiser, mask, y)), miss(RePaintGuidance(denoiser, mask, y, repeats=1))
    assert once == pytest.approx(plain, abs=0.1)
    for jump in (1, 5):
        assert miss(RePaintGuidance(denoiser, mask, y, repeats=15, jump_length=jump)) < 0.5 * plain


def test_repaint_pays_for_its_repeats() -> None:
    calls = []

    class Counting(GaussianDenoiser):
        def __call__(self, x, t, cond=Cond()):  # noqa: B008
            calls.append(t)
            return super().__call__(x, t, cond)

    guided = RePaintGuidance(
        Counting(CosineSchedule(), 0.0, 0.8), MaskOperator(box=[0, 0, 1, 1]), image(), repeats=3, jump_length=1
    )
    DDIMSampler(10)(guided, image())
    assert len(calls) == 9 * 3 + 1  # the step to clean data once


@pytest.mark.parametrize(("steps", "jump", "repeats"), [(250, 10, 10), (50, 10, 3), (20, 7, 2), (20, 1, 4), (5, 10, 9)])
def test_repaint_visits_the_levels_that_diffusers_visits(steps: int, jump: int, repeats: int) -> None:
    """The paper's 250 steps with j = r = 10 are 2,410 calls; with the 2,160 steps up between them 4,570 in all."""
    theirs = diffusers.RePaintScheduler()
    theirs.set_timesteps(steps, jump_length=jump, jump_n_sample=repeats)
    at = (theirs.timesteps // (1000 // steps)).tolist()
    down = [here for here, there in pairwise([*at, -1]) if there < here]
    seen = []

    class Watching(GaussianDenoiser):
        def __call__(self, x, t, cond=Cond()):  # noqa: B008
            seen.append(round(t * steps) - 1)
            return super().__call__(x, t, cond)

    guided = RePaintGuidance(
        Watching(CosineSchedule(), 0.0, 0.8), MaskOperator(box=[0, 0, 1, 1]), image(), repeats=repeats, jump_length=jump
    )
    DDIMSampler(steps)(guided, image())
    assert seen == down
    if steps == 250:
        assert (len(seen), len(at)) == (2410, 4570)


def test_repaint_goes_back_by_the_forward_process() -> None:
    """The state that a stretch begins from again has the marginal of its level."""
    denoiser, kept = GaussianDenoiser(CosineSchedule(), 0.3, 0.5), []

    class Watching(GaussianDenoiser):
        def __call__(self, x, t, cond=Cond()):  # noqa: B008
            kept.append((t, x))
            return denoiser(x, t, cond)

    hidden = MaskOperator(box=[0, 0, 8, 8])
    noise = torch.randn(4000, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    guided = RePaintGuidance(
        Watching(CosineSchedule(), 0.3, 0.5), hidden, torch.zeros(1, 8, 8).double(), repeats=2, jump_length=20
    )
    AncestralSampler(40)(guided, noise)
    t, x = kept[39]  # after 39 steps down and 20 up
    level = denoiser.schedule.level(t)
    assert t == 21 / 40
    assert float(x.mean()) == pytest.approx(level.alpha * 0.3, abs=0.01)
    assert float(x.std()) == pytest.approx(math.hypot(level.alpha * 0.5, level.sigma), abs=0.01)


def test_measurements_come_from_files(tmp_path: Path) -> None:
    y = image(seed=1)[0].float()
    torch.save(y, tmp_path / "y.pt")
    np.save(tmp_path / "y.npy", y.numpy())
    Image.fromarray(np.array([[0, 255], [255, 0]], dtype=np.uint8)).save(tmp_path / "y.png")
    Image.fromarray(np.zeros((2, 3, 3), dtype=np.uint8)).save(tmp_path / "rgb.png")
    torch.testing.assert_close(read(str(tmp_path / "y.pt")), y)
    torch.testing.assert_close(read(str(tmp_path / "y.npy")), y)
    assert read(str(tmp_path / "y.png")).tolist() == [[[-1.0, 1.0], [1.0, -1.0]]]
    assert read(str(tmp_path / "rgb.png")).shape == (3, 2, 3)
    seen = MaskOperator(file=str(tmp_path / "y.png"))(torch.ones(1, 2, 2, 2))
    assert seen[0, 0].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    (tmp_path / "bad.png").write_text("no image")
    for name, said in (("bad.png", r"bad\.png cannot be read as an image"), ("none.png", "no file")):
        with pytest.raises(ValueError, match=said):
            read(str(tmp_path / name))


def test_a_measurement_may_be_given_as_it_is_and_one_for_each_sample() -> None:
    denoiser, operator, y = GaussianDenoiser(CosineSchedule(), 0.0, 0.8), DownsampleOperator(2), image(3, seed=1)
    x = image(3)
    simulated = PiGDMGuidance(denoiser, operator, y)(x, 0.5)
    given = PiGDMGuidance(denoiser, operator, operator(y), simulate=False)(x, 0.5)
    torch.testing.assert_close(simulated.x0, given.x0)
    alone = PiGDMGuidance(denoiser, operator, y[1])(x[1:2], 0.5)
    torch.testing.assert_close(simulated.x0[1:2], alone.x0)


def test_what_cannot_be_measured_is_refused() -> None:
    denoiser, x = GaussianDenoiser(CosineSchedule(), 0.0, 0.8), image(2)
    with pytest.raises(ValueError, match=r"guidance\.pigdm\.measurement"):
        PiGDMGuidance(denoiser, DownsampleOperator(2), torch.zeros(1, 8, 8))(x, 0.5)
    with pytest.raises(ValueError, match=r"guidance\.dps\.measurement"):
        DPSGuidance(denoiser, MaskOperator(box=[0, 0, 1, 1]), torch.zeros(3, 1, 4, 4))(x, 0.5)
    with pytest.raises(ValueError, match="use guidance=pigdm or dps"):
        InpaintGuidance(denoiser, DownsampleOperator(2), x)
    with pytest.raises(ValueError, match="noise above 0"):
        PiGDMGuidance(denoiser, BlurOperator(1.0), x[:1], noise=0.0)(x, 0.5)
    for make, key in (
        (lambda: MaskOperator(), r"operator\.box"),
        (lambda: MaskOperator(box=[0, 0, 1]), r"operator\.box"),
        (lambda: MaskOperator(box=[0, 0, 9, 1])(x), "leaves images"),
        (lambda: DownsampleOperator(1), r"operator\.factor"),
        (lambda: DownsampleOperator(3)(x), r"operator\.factor"),
        (lambda: BlurOperator(0.0), r"operator\.width"),
        (
            lambda: RePaintGuidance(denoiser, MaskOperator(box=[0, 0, 1, 1]), x, repeats=0),
            r"guidance\.repaint\.repeats",
        ),
        (
            lambda: RePaintGuidance(denoiser, MaskOperator(box=[0, 0, 1, 1]), x, jump_length=0),
            r"guidance\.repaint\.jump_length",
        ),
        (lambda: DPSGuidance(denoiser, DownsampleOperator(2), x, scale=-1.0), r"guidance\.dps\.scale"),
    ):
        with pytest.raises(ValueError, match=key):
            make()
