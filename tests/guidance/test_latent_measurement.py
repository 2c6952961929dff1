"""Guidance of latents by a measurement of the decoded image."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from test_guidance_measurement import OPERATORS, SIZE, image, matrix, named
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.guidance import DPSGuidance, PSLDGuidance, ReSampleGuidance, guide
from diffusion.operator import BlurOperator, ClipOperator, MaskOperator, Operator
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.schedule.posterior import between
from diffusion.spacing.uniform import UniformSpacing

PIXELS = SIZE * SIZE
SCHEDULE = CosineSchedule()
BOX = MaskOperator(box=[1, 1, 2, 2])


class Linear:
    """Images (B, 1, 4, 4) <-> latents (B, 1, 1, k): decode by a matrix (16, k), encode by its pseudo-inverse."""

    def __init__(self, decoder: Tensor) -> None:
        self.decoder, self.encoder = decoder, torch.linalg.pinv(decoder)

    def encode(self, image: Tensor) -> Tensor:
        return (image.flatten(1) @ self.encoder.T)[:, None, None]

    def decode(self, latent: Tensor) -> Tensor:
        return (latent.flatten(1) @ self.decoder.T).reshape(-1, 1, SIZE, SIZE)


def normal(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, dtype=x.dtype, generator=generator)


def square(seed: int = 3) -> Tensor:
    return normal(seed)(torch.empty(PIXELS, PIXELS, dtype=torch.float64))


@pytest.mark.parametrize("operator", OPERATORS, **named)
def test_an_adjoint_can_be_differentiated(operator: Operator) -> None:
    y = operator(image(2)).requires_grad_()
    v = image(2, seed=1)
    (slope,) = torch.autograd.grad((operator.adjoint(y, (2, 1, SIZE, SIZE)) * v).sum(), y)
    torch.testing.assert_close(slope, operator(v))


def test_psld_of_images_behind_a_mask_is_dps() -> None:
    denoiser, y = GaussianDenoiser(SCHEDULE, 0.2, 0.7), BOX(image(seed=1))
    guided = guide(denoiser, [lambda d: PSLDGuidance(d, BOX, y, simulate=False, scale=0.3, gluing=0.2)])
    dps = DPSGuidance(denoiser, BOX, y, simulate=False, scale=0.5)
    found, wanted = (AncestralSampler(20)(it, image(3), randn_like=normal()) for it in (guided, dps))
    torch.testing.assert_close(found, wanted)


def test_psld_does_not_see_how_the_latents_are_turned() -> None:
    """White data behind an orthogonal decoder are DPS on the decoded images; with the encoder in its place."""
    codec, y = Linear(torch.linalg.qr(square())[0]), BOX(image(seed=1))
    denoiser = GaussianDenoiser(SCHEDULE)
    guided = guide(denoiser, [lambda d: PSLDGuidance(d, BOX, y, simulate=False, scale=0.3, gluing=0.2)], codec)
    noise = normal(5)(torch.empty(3, 1, 1, PIXELS, dtype=torch.float64))
    found = codec.decode(DDIMSampler(20)(guided, noise))
    dps = DPSGuidance(denoiser, BOX, y, simulate=False, scale=0.5)
    torch.testing.assert_close(found, DDIMSampler(20)(dps, codec.decode(noise)))


@pytest.mark.parametrize("operator", [BOX, BlurOperator(0.7)], **named)
def test_gluing_pulls_a_latent_to_what_the_encoder_makes_of_the_measurement(operator: Operator) -> None:
    """Without the error of the measurement, by dense algebra: the slope of |z - E (A^T y + (I - A^T A) D z)|."""
    D = square()[:, :5]
    codec, y, A = Linear(D), operator(image(seed=1)), matrix(operator)
    guided = PSLDGuidance(GaussianDenoiser(SCHEDULE), operator, y, simulate=False, scale=0.0, gluing=1.0)
    guided.autoencoder = codec
    z = normal(5)(torch.empty(3, 1, 1, 5, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(guided.error(z).sum(), z)
    left = torch.eye(5) - codec.encoder @ (torch.eye(PIXELS) - A.T @ A) @ D
    gap = z.detach().flatten(1) @ left.T - y.flatten() @ A @ codec.encoder.T
    torch.testing.assert_close(slope.flatten(1), gap / gap.norm(dim=1, keepdim=True) @ left)


def test_resample_draws_from_the_product_of_both_gaussians() -> None:
    """N(alpha z_0, sigma^2) N(z', v): precisions add up."""
    y, count, cur, nxt = BOX(image(seed=1)), 20000, SCHEDULE.level(0.5), SCHEDULE.level(0.45)
    guided = ReSampleGuidance(
        GaussianDenoiser(SCHEDULE), BOX, y, simulate=False, noise=0.1, descent=0, every=1, gamma=3.0
    )
    x = image(seed=2).expand(count, -1, -1, -1)
    predicted = guided(x, cur.t).x0[:1]
    reached = 0.3 * x
    out = guided.after(reached, cur, nxt, SimpleNamespace(taken=5, left=5), normal()).flatten(1)
    z0 = predicted + BOX(y - predicted) / (1 + 0.1**2)  # halfway: the image is changed
    v, s2 = 3.0 * between(cur, nxt).small, nxt.sigma**2
    variance = 1 / (1 / v + 1 / s2)
    mean = variance * (nxt.alpha * z0 / s2 + reached[:1] / v)
    torch.testing.assert_close(out.mean(0), mean.flatten(), rtol=0, atol=5 * (variance / count) ** 0.5)
    torch.testing.assert_close(out.var(0), torch.full((PIXELS,), variance).double(), rtol=0.06, atol=0)


def test_resample_ends_with_latents_that_explain_the_measurement_each_by_itself() -> None:
    noise, codec = 0.05, Linear(square() / 4)
    y = BOX(codec.decode(normal(5)(torch.empty(2, 1, 1, PIXELS, dtype=torch.float64))))

    def drawn(rows: slice) -> Tensor:
        wrap = lambda d: ReSampleGuidance(d, BOX, y[rows], simulate=False, noise=noise, every=3, rate=0.05)  # noqa: E731
        guided = guide(GaussianDenoiser(SCHEDULE), [wrap], codec)
        start = normal(6)(torch.empty(2, 1, 1, PIXELS, dtype=torch.float64))[rows]
        return DDIMSampler(12)(guided, start, randn_like=lambda x: torch.zeros_like(x))

    both = drawn(slice(0, 2))
    error = (y - BOX(codec.decode(both))).square().flatten(1).sum(1)
    assert (error <= 12 * noise**2).all(), "12 pixels are seen"
    torch.testing.assert_close(drawn(slice(1, 2)), both[1:])
    free = DDIMSampler(12)(GaussianDenoiser(SCHEDULE), normal(6)(both))
    assert ((y - BOX(codec.decode(free))).square().flatten(1).sum(1) > 1).all()


def test_resample_goes_down_the_error_of_the_decoded_image_before_all() -> None:
    """In the first third it is DPS on the decoded image, its step times alpha^2."""
    codec, cur, nxt = Linear(torch.linalg.qr(square())[0]), SCHEDULE.level(0.9), SCHEDULE.level(0.8)
    y, z, first = BOX(image(seed=1)), normal(5)(torch.empty(3, 1, 1, PIXELS, dtype=torch.float64)), (1, 9)

    def moved(guided, x: Tensor) -> Tensor:
        guided(x, cur.t)
        return guided.after(x, cur, nxt, SimpleNamespace(taken=first[0], left=first[1]), normal()) - x

    denoiser = GaussianDenoiser(SCHEDULE, 0.0, 0.7)
    guided = guide(denoiser, [lambda d: ReSampleGuidance(d, BOX, y, simulate=False, descent=0.3)], codec)
    found = codec.decode(moved(guided, z))
    wanted = moved(DPSGuidance(denoiser, BOX, y, simulate=False, scale=0.3), codec.decode(z))
    torch.testing.assert_close(found, cur.alpha**2 * wanted)
    assert wanted.abs().max() > 0


@pytest.mark.parametrize("final", ["clean", "first"])
def test_resample_gives_what_explains_the_measurement_where_the_last_level_keeps_noise(final) -> None:
    y, noise = BOX(image(seed=1)), 0.05
    guided = ReSampleGuidance(
        GaussianDenoiser(LinearSchedule()), BOX, y, simulate=False, noise=noise, every=2, rate=0.05
    )
    out = DDIMSampler(6, UniformSpacing(), final=final)(guided, image(3, seed=2))
    assert ((y - BOX(out)).square().flatten(1).sum(1) <= 12 * noise**2).all()


def test_what_is_not_linear_is_explained_in_latents_from_the_first_third_on() -> None:
    """High dynamic range: pixels that are cut have no slope, all others fit. Without gluing psld is DPS there."""
    codec, operator, noise = Linear(square() / 4), ClipOperator(), 0.02
    y, start = operator(codec.decode(normal(5)(torch.empty(2, 1, 1, PIXELS, dtype=torch.float64)))), normal(6)
    make = {"simulate": False, "noise": noise, "every": 3, "rate": 0.05}
    guided = guide(GaussianDenoiser(SCHEDULE), [lambda d: ReSampleGuidance(d, operator, y, **make)], codec)
    out = DDIMSampler(12)(guided, start(torch.empty(2, 1, 1, PIXELS, dtype=torch.float64)), randn_like=normal())
    measured = operator(codec.decode(out))
    uncut = measured.abs() < 1
    assert 0.2 < uncut.double().mean() < 1
    assert (y - measured)[uncut].abs().max() < noise
    x, pixels = image(3), GaussianDenoiser(SCHEDULE)
    found = DDIMSampler(10)(PSLDGuidance(pixels, operator, y[:1], simulate=False, scale=0.5, gluing=0.0), x)
    dps = DPSGuidance(pixels, operator, y[:1], simulate=False, scale=0.5)
    torch.testing.assert_close(found, DDIMSampler(10)(dps, x))
    with pytest.raises(ValueError, match=r"ClipOperator is not one; set guidance\.psld\.gluing=0"):
        PSLDGuidance(pixels, operator, y)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda *given: PSLDGuidance(*given, gluing=-1.0), r"set guidance\.psld\.gluing"),
        (lambda *given: PSLDGuidance(*given, scale=-1.0), r"set guidance\.psld\.scale"),
        (lambda *given: ReSampleGuidance(*given, descent=-1.0), r"descent=-1\.0.*set guidance\.resample"),
        (lambda *given: ReSampleGuidance(*given, every=0), r"set guidance\.resample"),
        (lambda *given: ReSampleGuidance(*given)(image(), torch.tensor([0.5])), "all samples at one time"),
    ],
)
def test_settings_that_no_method_has_are_refused(make, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make(GaussianDenoiser(SCHEDULE), BOX, image())
