"""Guidance by a measurement against the posterior of a Gaussian with correlated pixels."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from test_guidance_measurement import OPERATORS, SIZE, Dense, image, matrix, named
from torch import Tensor

from diffusion.guidance.ddnm import DDNMGuidance
from diffusion.guidance.diffpir import DiffPIRGuidance
from diffusion.guidance.mmps import MMPSGuidance
from diffusion.guidance.tmpd import TMPDGuidance
from diffusion.operator.base import Operator
from diffusion.operator.blur import BlurOperator
from diffusion.operator.conjugate_gradients import conjugate_gradients
from diffusion.operator.mask import MaskOperator
from diffusion.operator.minimal_residual import minimal_residual
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.flow import FlowSchedule

NOISE = 0.3
EYE = torch.eye(SIZE * SIZE, dtype=torch.float64)


def correlated() -> tuple[Tensor, Tensor]:
    """A mean, and a covariance of neighbours that go together."""
    place = torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij"), -1).reshape(-1, 2)
    covariance = torch.exp(-torch.cdist(place.double(), place.double()) / 2)
    return 0.1 * torch.arange(SIZE * SIZE, dtype=torch.float64), covariance


def posterior(operator: Operator, y: Tensor, mean: Tensor, covariance: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of x_0 given y = A x_0 + noise z, by dense linear algebra."""
    A = matrix(operator)
    gain = covariance @ A.T @ torch.linalg.inv(A @ covariance @ A.T + noise**2 * torch.eye(len(A), dtype=A.dtype))
    return mean + gain @ (y.flatten() - A @ mean), covariance - gain @ A @ covariance


@pytest.mark.parametrize("operator", OPERATORS, **named)
def test_the_adjoint_is_the_transpose(operator: Operator) -> None:
    y = operator(image(3))
    wanted = (y.flatten(1) @ matrix(operator)).reshape(3, 1, SIZE, SIZE)
    torch.testing.assert_close(operator.adjoint(y, (3, 1, SIZE, SIZE)), wanted)
    torch.testing.assert_close(Operator.adjoint(operator, y, (3, 1, SIZE, SIZE)), wanted)


def test_conjugate_gradients_end_after_as_many_steps_as_dimensions() -> None:
    root = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    maps, b = root @ root.mT + torch.eye(5), torch.ones(2, 5, dtype=torch.float64)
    found = conjugate_gradients(lambda v: (maps @ v[..., None])[..., 0], b, 5)
    torch.testing.assert_close(found, torch.linalg.solve(maps, b))
    assert (conjugate_gradients(lambda v: v, torch.zeros(1, 5), 3) == 0).all()


@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_gmres_finds_the_least_residual_of_the_krylov_space_of_a_map_that_is_not_symmetric(iterations: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.eye(5) + 0.4 * torch.randn(2, 5, 5, dtype=torch.float64, generator=generator)
    b = torch.randn(2, 5, dtype=torch.float64, generator=generator)
    found = minimal_residual(lambda v: (maps @ v[..., None])[..., 0], b, iterations)
    for one, matrix_, right in zip(found, maps, b, strict=True):
        krylov = torch.stack([torch.linalg.matrix_power(matrix_, k) @ right for k in range(iterations)], 1)
        shares = torch.linalg.lstsq(matrix_ @ krylov, right[:, None]).solution
        torch.testing.assert_close(one, (krylov @ shares)[:, 0])
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # M b is at right angles to b
    turned = minimal_residual(lambda v: v @ turn.T, torch.tensor([[3.0, 4.0]]), 2)
    torch.testing.assert_close(turned @ turn.T, torch.tensor([[3.0, 4.0]]), msg="no definite symmetric part is needed")
    assert (minimal_residual(lambda v: v, torch.ones(1, 5), 3) == 1).all(), "solved after one iteration"
    assert (minimal_residual(lambda v: v, torch.zeros(1, 5), 3) == 0).all()


@pytest.mark.parametrize("operator", OPERATORS, **named)
@pytest.mark.parametrize("schedule", [CosineSchedule(), FlowSchedule()])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("solver", ["gmres", "cg"])
def test_mmps_is_the_exact_posterior_of_any_gaussian(operator: Operator, schedule, t: float, solver: str) -> None:
    mean, covariance = correlated()
    y, x = operator(image(seed=1)), image(3)
    settings = {"noise": NOISE, "iterations": SIZE * SIZE, "solver": solver}
    guided = MMPSGuidance(Dense(schedule, mean, covariance), operator, y, simulate=False, **settings)
    wanted = Dense(schedule, *posterior(operator, y, mean, covariance, NOISE))(x, t)
    said = guided(x, t)
    torch.testing.assert_close(said.x0, wanted.x0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(said.eps, wanted.eps, rtol=1e-6, atol=1e-6)
    assert not said.x0.requires_grad


def test_one_iteration_is_exact_where_the_residual_is_an_eigenvector_and_not_elsewhere() -> None:
    schedule, x, t = CosineSchedule(), image(2), 0.5
    mean, covariance = correlated()
    one = MaskOperator(seen=torch.eye(SIZE, dtype=torch.float64)[None, :, :] * torch.tensor([1.0, 0, 0, 0]))
    for operator, exact in ((one, True), (MaskOperator(box=[1, 1, 2, 2]), False)):
        y = operator(image(seed=1))
        guided = MMPSGuidance(Dense(schedule, mean, covariance), operator, y, simulate=False, noise=NOISE)
        wanted = Dense(schedule, *posterior(operator, y, mean, covariance, NOISE))(x, t)
        assert torch.allclose(guided(x, t).x0, wanted.x0, atol=1e-6) is exact


def test_tmpd_is_exact_where_what_is_measured_is_independent() -> None:
    schedule, x, t = CosineSchedule(), image(2), 0.5
    variances = torch.diag(torch.linspace(0.2, 2, SIZE * SIZE, dtype=torch.float64))
    operator = MaskOperator(box=[1, 1, 2, 2])
    y = operator(image(seed=1))
    for covariance, exact in ((variances, True), (correlated()[1], False)):
        mean = correlated()[0]
        guided = TMPDGuidance(Dense(schedule, mean, covariance), operator, y, simulate=False, noise=NOISE)
        wanted = Dense(schedule, *posterior(operator, y, mean, covariance, NOISE))(x, t)
        assert torch.allclose(guided(x, t).x0, wanted.x0, atol=1e-6) is exact


PAIR = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
COUNT = 12000


def sampled(kind, sampler, mask: MaskOperator, y: list[float], covariance: Tensor, **settings: float) -> Tensor:
    """Samples (N, 2) of two pixels with this covariance."""
    generator = torch.Generator().manual_seed(0)

    def randn_like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    denoiser = Dense(CosineSchedule(), torch.zeros(2, dtype=torch.float64), covariance)
    guided = kind(denoiser, mask, torch.tensor([[y]], dtype=torch.float64), simulate=False, **settings)
    return sampler(guided, randn_like(torch.empty(COUNT, 1, 1, 2, dtype=torch.float64)), randn_like=randn_like)[:, 0, 0]


FIRST, BOTH = MaskOperator(box=[0, 1, 1, 1]), MaskOperator(box=[0, 0, 0, 0])


def test_whole_chains_have_the_posteriors_moments() -> None:
    """y = 1 for the first of two pixels of correlation 0.8: the hidden one is N(0.8 / (1 + noise^2), ...)."""
    out = sampled(MMPSGuidance, DDIMSampler(250), FIRST, [1.0, 0.0], PAIR, noise=NOISE)
    mean = 0.8 / (1 + NOISE**2)
    assert float(out[:, 1].mean()) == pytest.approx(mean, abs=0.03)
    assert float(out[:, 1].var()) == pytest.approx(1 - 0.8 * mean, rel=0.08)
    both = sampled(TMPDGuidance, DDIMSampler(100), BOTH, [1.0, -0.5], PAIR, noise=0.5)
    truth = PAIR @ torch.linalg.inv(PAIR + 0.25 * torch.eye(2)) @ torch.tensor([1.0, -0.5], dtype=torch.float64)
    assert float((both.mean(0) - truth).abs().max()) > 0.03, "row sums are not the covariance of correlated pixels"


@pytest.mark.parametrize("zeta", [0.0, 0.3, 1.0])
def test_diffpir_sees_what_was_measured_and_no_noise_leaves_the_rest(zeta: float) -> None:
    out = sampled(DiffPIRGuidance, DDIMSampler(60), FIRST, [1.0, 0.0], torch.eye(2).double(), noise=0.05, zeta=zeta)
    assert float(out[:, 0].mean()) == pytest.approx(1, abs=0.02)
    assert float(out[:, 1].mean()) == pytest.approx(0, abs=0.05)
    if zeta == 1:  # fresh noise at every step forgets half of the hidden pixel's variance as steps grow
        assert 0.45 < float(out[:, 1].var()) < 0.55
    if zeta == 0:
        assert float(out[:, 1].var()) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("sigma_data", [None, 0.8])
def test_diffpirs_data_step_is_the_minimum_that_it_says(sigma_data: float | None) -> None:
    schedule, operator, x, t = CosineSchedule(), BlurOperator(0.7), image(2), 0.5
    denoiser = Dense(schedule, *correlated())
    y = operator(image(seed=1))
    settings = {"noise": NOISE, "weight": 2.0, "sigma_data": sigma_data}
    found = DiffPIRGuidance(denoiser, operator, y, simulate=False, **settings)(x, t).x0
    level, A = schedule.level(t), matrix(operator)
    rho = 2.0 * NOISE**2 * ((level.alpha / level.sigma) ** 2 + (0 if sigma_data is None else sigma_data**-2))
    right = y.flatten() @ A + rho * denoiser(x, t).x0.flatten(1)
    torch.testing.assert_close(found.flatten(1), torch.linalg.solve(A.T @ A + rho * EYE, right.T).T)


@pytest.mark.parametrize("operator", OPERATORS, **named)
@pytest.mark.parametrize("t", [0.1, 0.9, 1.0])
def test_diffpirs_data_step_is_exact_for_independent_gaussian_pixels(operator: Operator, t: float) -> None:
    std, x, y, mean = 0.8, image(3), operator(image(seed=1)), torch.zeros(SIZE * SIZE, dtype=torch.float64)
    denoiser = Dense(CosineSchedule(), mean, std**2 * EYE)
    found = DiffPIRGuidance(denoiser, operator, y, simulate=False, noise=NOISE, sigma_data=std)(x, t)
    wanted = Dense(CosineSchedule(), *posterior(operator, y, mean, std**2 * EYE, NOISE))(x, t)
    torch.testing.assert_close(found.x0, wanted.x0, rtol=1e-6, atol=1e-6)


def test_ddnm_ends_on_the_measurement_and_leaves_independent_pixels_alone() -> None:
    out = sampled(partial(DDNMGuidance, eta=None), AncestralSampler(400), FIRST, [1.0, 0.0], torch.eye(2).double())
    torch.testing.assert_close(out[:, 0], torch.ones(COUNT, dtype=torch.float64))
    assert float(out[:, 1].mean()) == pytest.approx(0, abs=0.05)
    assert float(out[:, 1].var()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda *given: MMPSGuidance(*given, noise=0.0), r"guidance\.mmps"),
        (lambda *given: MMPSGuidance(*given, iterations=0), r"guidance\.mmps"),
        (lambda *given: MMPSGuidance(*given, solver="qr"), r"guidance\.mmps\.solver"),
        (lambda *given: TMPDGuidance(*given, noise=0.0), r"guidance\.tmpd\.noise"),
        (lambda *given: DiffPIRGuidance(*given, zeta=1.5), r"guidance\.diffpir"),
        (lambda *given: DDNMGuidance(given[0], BlurOperator(1.0), given[2])(image(2), 0.5), "noise above 0"),
        (lambda *given: MMPSGuidance(*given)(image(2), torch.tensor([0.5, 0.4])), "all samples at one time"),
    ],
)
def test_settings_that_no_method_has_are_refused(make, key: str) -> None:
    denoiser = Dense(CosineSchedule(), *correlated())
    with pytest.raises(ValueError, match=key):
        make(denoiser, MaskOperator(box=[0, 0, 1, 1]), image())
