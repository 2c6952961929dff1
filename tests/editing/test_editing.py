"""Edits against closed forms on Gaussian data, frames and masks, and the script on a small model."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.editing.base import Subject, slerp
from diffusion.editing.blend import BlendEdit
from diffusion.editing.diffedit import DiffEdit, difference
from diffusion.editing.inpaint import InpaintEdit
from diffusion.editing.invert import InvertEdit
from diffusion.editing.restyle import RestyleEdit
from diffusion.editing.tiles import TiledDenoiser
from diffusion.editing.upscale import UpscaleEdit
from diffusion.editing.variation import VariationEdit
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.base import Sampler
from diffusion.sampler.bdia import BDIASampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.linear import LinearSchedule
from diffusion.schedule.vp import VPSchedule
from diffusion.types import Cond, Prediction

STD = 0.8


class Shifted:
    """The exact denoiser of N(m(c), STD^2) in every pixel, m the condition's vector, 0 without one."""

    def __init__(self, schedule) -> None:
        self.schedule = schedule

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        mean = 0.0 if cond.vector is None else cond.vector[:, :1, None, None]
        level = self.schedule.level(float(t))
        spread = level.alpha**2 * STD**2 + level.sigma**2
        centred = (x - level.alpha * mean) / spread
        return Prediction(mean + level.alpha * STD**2 * centred, level.sigma * centred)


def mean(value: float, count: int) -> Cond:
    return Cond(vector=torch.full((count, 1), value, dtype=torch.float64))


def subject(
    *images: Tensor,
    sampler: Sampler | None = None,
    mask: Tensor | None = None,
    schedule: object | None = None,
    new: float = 0.0,
    old: float = 0.0,
) -> Subject:
    generator = torch.Generator().manual_seed(1)

    def randn_like(x: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    denoiser, count = Shifted(schedule or CosineSchedule()), len(images[0])
    return Subject(
        images=images,
        mask=mask,
        sampler=sampler or DDIMSampler(200),
        denoiser=denoiser,
        cond=mean(new, count),
        plain=denoiser,
        source=mean(old, count),
        noise=randn_like(images[0]),
        randn_like=randn_like,
        tile=(4, 4),
    )


def image(count: int = 1, seed: int = 0, side: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return STD * torch.randn(count, 1, side, side, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("stochastic", [False, True])
def test_restyle_has_the_law_of_sdedit(strength: float, stochastic: bool) -> None:
    """Of x_0 ~ N(0, v) and y = x / alpha, s = sigma / alpha, k = v / (v + s^2): along the ODE y is scaled by sqrt(k),
    so the mean is sqrt(k) g and the variance s^2 k; along the SDE they are those of x_0 given y, k g and
    s^2 k (k + 1)."""
    schedule = VPSchedule()
    level, v = schedule.level(strength), STD**2
    s2 = (level.sigma / level.alpha) ** 2
    k = v / (v + s2)
    g = torch.full((6_000, 1, 2, 2), 0.9, dtype=torch.float64)
    sampler = AncestralSampler(800) if stochastic else HeunSampler(60)
    out = RestyleEdit(strength)(subject(g, sampler=sampler, schedule=schedule))
    assert float(out.mean()) == pytest.approx(0.9 * (k if stochastic else math.sqrt(k)), abs=0.01)
    assert float(out.var()) == pytest.approx(s2 * k * (k + 1 if stochastic else 1), rel=0.04)


@pytest.mark.parametrize("sampler", [DDIMSampler(400), HeunSampler(60)])
@pytest.mark.parametrize("to", [0.5, 1.0])
def test_an_inverted_image_is_moved_to_the_new_mean(sampler: Sampler, to: float) -> None:
    """The flow of N(m, v) is affine, so from m = 0 to m = 1 through level t the image moves by 1 - alpha STD / nu,
    nu^2 = alpha^2 v + sigma^2; at t = 1 by 1."""
    x0 = image(3)
    out = InvertEdit(to=to)(subject(x0, sampler=sampler, new=1.0))
    level = CosineSchedule().level(to)
    nu = math.sqrt(level.alpha**2 * STD**2 + level.sigma**2)
    torch.testing.assert_close(out, x0 + 1 - level.alpha * STD / nu, atol=0.02, rtol=0)
    back = InvertEdit(to=to)(subject(x0, sampler=sampler))
    torch.testing.assert_close(back, x0, atol=0.01, rtol=0)


@pytest.mark.parametrize("steps", [2, 7, 60])
def test_the_exact_inverse_brings_an_image_back_in_any_number_of_steps(steps: int) -> None:
    x0 = image(2)
    for edit in (InvertEdit(), InvertEdit(to=0.6)):
        torch.testing.assert_close(edit(subject(x0, sampler=BDIASampler(steps))), x0, rtol=0, atol=1e-11)
    off = InvertEdit()(subject(x0, sampler=DDIMSampler(7))) - x0
    assert float(off.abs().max()) > 0.05


def test_variation_goes_from_the_image_to_a_sample() -> None:
    x0 = image(20, side=24)
    near = VariationEdit(1e-6)(subject(x0))
    torch.testing.assert_close(near, x0, atol=0.02, rtol=0)
    far = VariationEdit(1.0)(subject(x0))
    fresh = subject(x0)
    torch.testing.assert_close(far, fresh.sampler(fresh.denoiser, fresh.noise, fresh.cond))
    half = VariationEdit(0.5)(subject(x0))
    assert float(half.var()) == pytest.approx(STD**2, rel=0.03)
    correlation = torch.corrcoef(torch.stack([half.flatten(), x0.flatten()]))[0, 1]
    assert 0.6 < float(correlation) < 0.8  # cos 45 degrees for orthogonal noises


def test_slerp_keeps_the_variance_and_meets_its_ends() -> None:
    a, b = torch.randn(2, 4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    for amount in (0.25, 0.5, 0.75):
        assert float(slerp(a, b, amount).var()) == pytest.approx(1, abs=0.02)
        assert float(torch.lerp(a, b, amount).var()) == pytest.approx(amount**2 + (1 - amount) ** 2, abs=0.02)


def test_a_blend_of_one_weight_is_that_image_and_halves_meet_on_the_great_circle() -> None:
    first, second = image(3, seed=1, side=8), image(3, seed=2, side=8)
    torch.testing.assert_close(BlendEdit([0, 2])(subject(first, second)), second, atol=0.02, rtol=0)
    one = subject(first, second)
    noises = [one.invert(x0) for x0 in one.images]
    noises = [z * (64**0.5 / z.flatten(1).norm(dim=1))[:, None, None, None] for z in noises]
    equal = BlendEdit()(subject(first, second))
    wanted = one.again(slerp(*noises, 0.5))
    cosine = torch.cosine_similarity(equal.flatten(1), wanted.flatten(1))
    assert float(cosine.min()) > 0.98  # their lengths differ a little
    with pytest.raises(ValueError, match=r"edit\.weights has 3 weights for 2 images"):
        BlendEdit([1, 1, 1])(subject(first, second))


@pytest.mark.parametrize("edit", [InpaintEdit(), InpaintEdit(repeats=3, jump_length=5), RestyleEdit(0.5), InvertEdit()])
def test_what_a_mask_keeps_comes_out_as_it_was(edit) -> None:
    x0, mask = image(3), torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    mask[:, :, 1:3, 1:] = 1
    out = edit(subject(x0, mask=mask, sampler=DDIMSampler(20), new=0.5))
    torch.testing.assert_close(out * (1 - mask), x0 * (1 - mask))
    assert ((out - x0).abs() * mask).sum() > 0.1


def test_the_difference_of_two_conditions_is_where_they_differ() -> None:
    class Half(Shifted):
        """The condition moves the mean of the right half only."""

        def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
            moved = super().__call__(x, t, cond)
            still = super().__call__(x, t)
            right = torch.zeros_like(x)
            right[..., x.shape[-1] // 2 :] = 1
            return Prediction(torch.where(right > 0, moved.x0, still.x0), torch.where(right > 0, moved.eps, still.eps))

    one = subject(image(2), new=1.0)
    half = Half(one.plain.schedule)
    one = Subject(**{**{name: getattr(one, name) for name in one.__slots__}, "plain": half, "denoiser": half})
    found = difference(one, one.cond, one.source, 0.5, 4, 0.5)
    assert found[..., 2:].min() == 1
    assert found[..., :2].max() == 0
    out = DiffEdit(to=0.6)(one)
    torch.testing.assert_close(out[..., :2], one.x0[..., :2])
    assert float((out - one.x0)[..., 2:].mean()) > 0.1


def test_tiles_of_a_pointwise_model_are_the_model_itself() -> None:
    denoiser = GaussianDenoiser(CosineSchedule(), 0.3, STD)
    x = image(2, side=11)
    tiled, whole = TiledDenoiser(denoiser, (4, 4))(x, 0.4), denoiser(x, 0.4)
    torch.testing.assert_close(tiled.x0, whole.x0)
    torch.testing.assert_close(tiled.eps, whole.eps)


def test_upscale_is_restyle_of_the_enlarged_image_where_a_tile_sees_no_neighbour() -> None:
    x0 = image(2, side=9)
    out = UpscaleEdit(strength=0.4)(subject(x0))
    torch.testing.assert_close(out, RestyleEdit(0.4)(subject(x0)))


@pytest.mark.parametrize("strength", [0.3, 0.5, 1.0])
def test_restyle_is_diffusers_image_to_image(strength: float) -> None:
    """The same network, noise and table; their pipelines begin at the level of the last strength N of N steps."""
    theirs = diffusers.DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    theirs.set_timesteps(10)
    one = subject(image(2), sampler=DDIMSampler(10), schedule=LinearSchedule(), new=0.4)
    times = theirs.timesteps[10 - round(10 * strength) :]
    x = theirs.add_noise(one.x0, one.noise, times[:1])
    for t in times:
        x = theirs.step(one.denoiser(x, (int(t) + 1) / 1000, one.cond).eps, t, x).prev_sample
    torch.testing.assert_close(RestyleEdit(strength)(one), x, atol=1e-5, rtol=1e-5)  # their table is float32
