"""Operators against dense linear algebra, and against what defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.guidance.dps import DPSGuidance
from diffusion.guidance.pigdm import PiGDMGuidance
from diffusion.operator import (
    BlurOperator,
    BoxBlurOperator,
    ClipOperator,
    CompressedOperator,
    DownsampleOperator,
    FourierOperator,
    GrayOperator,
    MaskOperator,
    MotionBlurOperator,
    Operator,
    PhaseOperator,
    RadonOperator,
)
from diffusion.operator.compressed import hartley
from diffusion.schedule.cosine import CosineSchedule

SHAPE = (2, 4, 6)
DECOMPOSED = [
    MaskOperator(box=[1, 1, 2, 2]),
    MaskOperator(hidden=0.3, seed=2),
    DownsampleOperator(2),
    BlurOperator(0.7),
    BoxBlurOperator(3),
    MotionBlurOperator(2.5, 30.0),
    CompressedOperator(0.5),
    FourierOperator(2.0, 0.2),
    GrayOperator(2),
]
named = {"ids": lambda part: type(part).__name__}


def images(count: int = 3, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("operator", DECOMPOSED, **named)
def test_adjoint_solve_and_spectral_are_those_of_the_matrix(operator: Operator) -> None:
    size = int(np.prod(SHAPE))
    A = operator(torch.eye(size, dtype=torch.float64).reshape(size, *SHAPE)).flatten(1).T
    x = images()
    y = operator(x)
    torch.testing.assert_close(operator.adjoint(y, x.shape).flatten(1), y.flatten(1) @ A)
    dense = 0.7 * A @ A.T + 0.2 * torch.eye(len(A), dtype=torch.float64)
    torch.testing.assert_close(operator.solve(y, 0.7, 0.2).flatten(1), torch.linalg.solve(dense, y.flatten(1).T).T)
    _, values, rows = torch.linalg.svd(A)
    values = torch.cat([values, torch.zeros(size - len(values), dtype=torch.float64)])

    def f(s: Tensor) -> Tensor:
        return (s - 0.1).square() + 0.3  # of no operator's own

    wanted = ((x.flatten(1) @ rows.T) * f(values)) @ rows
    torch.testing.assert_close(operator.spectral(f, x).flatten(1), wanted)


def test_a_box_blur_is_a_convolution_with_equal_weights() -> None:
    x = images()
    wanted = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="circular"), 3, stride=1)
    torch.testing.assert_close(BoxBlurOperator(3)(x), wanted)


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_motion_takes_the_mean_of_a_wave_along_its_line(angle: float) -> None:
    place = torch.arange(16, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * 3 / 16 * place).expand(1, 1, 16, 16)
    moved = MotionBlurOperator(2.0, angle)(wave)
    line = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    factor = torch.cos(2 * torch.pi * 3 / 16 * line).mean() if angle == 0 else torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(moved, factor * wave, rtol=0, atol=1e-4)


def test_k_space_is_numpys_on_the_columns_measured() -> None:
    operator, x = FourierOperator(4.0, 0.1, seed=3), images(2, (1, 8, 40))
    measured = operator.measured(x)
    assert measured.sum() == 10
    assert (measured[[0, 1, -1]] == 1).all(), "low frequencies are"
    whole = np.fft.fft2(x.numpy(), norm="ortho") * measured.numpy()
    torch.testing.assert_close(operator(x), torch.from_numpy(np.concatenate([whole.real, whole.imag], 1)))


def test_compressed_sensing_measures_its_share_by_a_transform_that_is_its_own_inverse() -> None:
    x = images()
    torch.testing.assert_close(hartley(hartley(x)), x)
    y = CompressedOperator(0.25, seed=1)(x)
    assert ((y != 0).sum((-2, -1)) == round(0.25 * 24)).all()
    torch.testing.assert_close(CompressedOperator(1.0)(x).norm(), x.norm())
    assert not torch.equal(y, CompressedOperator(0.25, seed=2)(x))


def test_tomography_sums_along_columns_and_rows() -> None:
    x = images(2, (1, 7, 7))
    lines = RadonOperator(2)(x)
    assert lines.shape == (2, 1, 2, 7)
    torch.testing.assert_close(lines[:, :, 0], x.mean(2))
    torch.testing.assert_close(lines[:, :, 1], x.mean(3))
    with pytest.raises(ValueError, match="square"):
        RadonOperator(2)(images())


def test_magnitudes_forget_mirror_images_and_brightness_is_cut() -> None:
    x, phase = images(2, (1, 5, 5)), PhaseOperator(2.0)
    whole = np.abs(np.fft.fft2((x.numpy() + 1) / 2, s=(10, 10), norm="ortho"))
    torch.testing.assert_close(phase(x), torch.from_numpy(whole))
    torch.testing.assert_close(phase(x.flip(-1, -2)), phase(x))
    torch.testing.assert_close(ClipOperator(2.0)(torch.tensor([-0.7, 0.2, 0.5])), torch.tensor([-1.0, 0.4, 1.0]))


def test_what_is_not_linear_is_for_guidance_that_only_differentiates() -> None:
    denoiser = GaussianDenoiser(CosineSchedule())
    DPSGuidance(denoiser, ClipOperator(), images(1))
    with pytest.raises(ValueError, match=r"guidance\.pigdm needs a linear operator and ClipOperator is not one"):
        PiGDMGuidance(denoiser, ClipOperator(), images(1))
    for call in (lambda: PhaseOperator().solve(images(), 1.0, 1.0), lambda: ClipOperator().adjoint(images(), (1,))):
        with pytest.raises(ValueError, match="guidance=daps"):
            call()
    with pytest.raises(ValueError, match="no singular value decomposition"):
        RadonOperator().spectral(torch.sqrt, images())


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: BoxBlurOperator(4), "side"),
        (lambda: MotionBlurOperator(0.0), "length"),
        (lambda: GrayOperator(1), "channels"),
        (lambda: GrayOperator(3)(images()), "channels"),
        (lambda: CompressedOperator(0.0), "share"),
        (lambda: FourierOperator(4.0, 0.5), "center"),
        (lambda: RadonOperator(0), "angles"),
        (lambda: ClipOperator(1.0), "factor"),
        (lambda: PhaseOperator(0.5), "oversampling"),
        (lambda: MaskOperator(hidden=1.0), "hidden"),
        (lambda: MaskOperator(hidden=0.5, box=[0, 0, 1, 1]), "one of them"),
    ],
)
def test_settings_that_no_operator_has_are_refused(make, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make()
