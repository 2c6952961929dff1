"""A guidance scale for each part of a condition, held to Gaussians whose mean depends on two parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.guidance.apg import APGGuidance
from diffusion.guidance.cfg_plus_plus import CFGPlusPlusGuidance
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond, Prediction

MODES = pytest.mark.parametrize("mode", ["auto", "doubled", "two_pass"])
STD = 0.6


@dataclass
class OfTwoParts:
    """Exact denoiser of N(a + b + a b, STD^2) for the vectors a of the text and b of the image, 0 where removed."""

    schedule: CosineSchedule = field(default_factory=CosineSchedule)
    seen: list[int] = field(default_factory=list)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Cond = Cond()) -> Prediction:  # noqa: B008
        self.seen.append(len(x))
        a, b = cond.vector.chunk(2, dim=1)
        return GaussianDenoiser(self.schedule, a + b + a * b, STD)(x, t)


def part(value: float, count: int = 5) -> Cond:
    vector = torch.full((count, 3), value, dtype=torch.float64) + torch.arange(count)[:, None] / 10
    return Cond(vector=vector, null=Cond(vector=torch.zeros_like(vector)))


def state() -> tuple[Tensor, Cond, Tensor, Tensor]:
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    text, image = part(0.7), part(-0.4)
    return x, Cond.join({"text": text, "image": image}, concat=True), text.vector, image.vector


def close(one: Prediction, other: Prediction) -> None:
    torch.testing.assert_close(one.x0, other.x0, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(one.eps, other.eps, rtol=1e-9, atol=1e-10)


@MODES
@pytest.mark.parametrize("t", [0.1, 0.6, 1.0])
def test_of_equal_spread_it_is_the_gaussian_of_the_nested_mean(mode: str, t: float) -> None:
    """Means: b with the image alone, a + b + ab with both; InstructPix2Pix, eq. 3, is linear in them. The order of the
    mapping is that of removal, so that the joint effect ab is scaled with the part that is removed first."""
    x, cond, a, b = state()
    denoiser = OfTwoParts()
    for scales, mean in (
        ({"text": 7.5, "image": 1.5}, 1.5 * b + 7.5 * (a + a * b)),
        ({"image": 1.5, "text": 7.5}, 7.5 * a + 1.5 * (b + a * b)),
        ({"text": 3.0}, b + 3.0 * (a + a * b)),
        ({"text": 2.0, "image": 0.0}, 2.0 * (a + a * b)),
    ):
        guided = ClassifierFreeGuidance(denoiser, scales, mode=mode)(x, t, cond)
        close(guided, GaussianDenoiser(denoiser.schedule, mean, STD)(x, t))


@MODES
def test_equal_scales_are_the_plain_scale_bit_for_bit(mode: str) -> None:
    x, cond, *_ = state()
    denoiser = OfTwoParts()
    plain = ClassifierFreeGuidance(denoiser, 3.0, mode=mode)(x, 0.4, cond)
    parts = ClassifierFreeGuidance(denoiser, {"text": 3.0, "image": 3.0}, mode=mode)(x, 0.4, cond)
    assert torch.equal(plain.x0, parts.x0)
    assert torch.equal(plain.eps, parts.eps)


def test_the_only_part_is_the_whole_condition() -> None:
    x, cond, *_ = state()
    joined = Cond.join({"text": cond})
    plain = ClassifierFreeGuidance(OfTwoParts(), 3.0)(x, 0.4, cond)
    alone = ClassifierFreeGuidance(OfTwoParts(), {"text": 3.0})(x, 0.4, joined)
    assert torch.equal(plain.x0, alone.x0)


@pytest.mark.parametrize(
    ("scales", "passes", "mean"),
    [  # the mean as factors of a, b and ab
        ({"text": 7.5, "image": 1.5}, 3, (7.5, 1.5, 7.5)),
        ({"text": 1.0, "image": 1.0}, 1, (1.0, 1.0, 1.0)),
        ({"text": 2.0, "image": 2.0}, 2, (2.0, 2.0, 2.0)),
        ({"text": 2.0, "image": 1.0}, 2, (2.0, 1.0, 2.0)),
        ({"text": 1.0, "image": 2.0}, 3, (1.0, 2.0, 1.0)),
        ({"text": 0.0, "image": 2.0}, 2, (0.0, 2.0, 0.0)),
        ({"text": 0.0, "image": 0.0}, 1, (0.0, 0.0, 0.0)),
        ({"image": 0.0}, 1, (1.0, 0.0, 0.0)),
        ({"text": 2.0}, 2, (2.0, 1.0, 2.0)),
    ],
)
def test_predictions_that_cancel_are_not_paid(
    scales: dict[str, float], passes: int, mean: tuple[float, float, float]
) -> None:
    x, cond, a, b = state()
    for mode, expected in (("two_pass", [5] * passes), ("doubled", [5 * passes])):
        denoiser = OfTwoParts()
        guided = ClassifierFreeGuidance(denoiser, scales, mode=mode)(x, 0.5, cond)
        assert denoiser.seen == expected
        close(guided, GaussianDenoiser(denoiser.schedule, mean[0] * a + mean[1] * b + mean[2] * a * b, STD)(x, 0.5))


def test_curves_and_intervals_act_on_each_part() -> None:
    x, cond, a, b = state()
    schedule = CosineSchedule()
    curve = [[0.1, 1.0], [10.0, 5.0]]
    guidance = ClassifierFreeGuidance(OfTwoParts(), {"text": curve, "image": 2.0}, interval=[0.05, 20.0])
    t = torch.tensor([0.01, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    together = guidance(x, t, cond)
    for i in range(5):
        one, noise = slice(i, i + 1), schedule.level(float(t[i])).noise
        text = float(torch.tensor(noise / 0.1).log() / torch.tensor(100.0).log()) * 4 + 1
        text, image = (min(max(text, 1.0), 5.0), 2.0) if 0.05 < noise <= 20.0 else (1.0, 1.0)
        mean = image * b[one] + text * (a + a * b)[one]
        exact = GaussianDenoiser(schedule, mean, STD)(x[one], float(t[i]))
        torch.testing.assert_close(together.x0[one], exact.x0, rtol=1e-6, atol=1e-6)
        alone = guidance(x[one], float(t[i]), cond.select(torch.tensor([i])))
        torch.testing.assert_close(together.x0[one], alone.x0)


def test_samples_end_at_the_nested_mean() -> None:
    x, cond, a, b = state()
    guided = ClassifierFreeGuidance(OfTwoParts(), {"text": 2.0, "image": 1.5})
    exact = GaussianDenoiser(guided.schedule, 1.5 * b + 2.0 * (a + a * b), STD).transport(x, 1.0, 0.0)
    torch.testing.assert_close(DDIMSampler(400)(guided, x, cond), exact, atol=0.01, rtol=0.01)


def test_cfg_plus_plus_takes_a_scale_for_each_part() -> None:
    x, cond, *_ = state()
    denoiser = OfTwoParts()
    plain = CFGPlusPlusGuidance(denoiser, 0.6)
    parts = CFGPlusPlusGuidance(denoiser, {"text": 0.6, "image": 0.6})
    torch.testing.assert_close(DDIMSampler(10)(parts, x, cond), DDIMSampler(10)(plain, x, cond))
    with pytest.raises(ValueError, match=r"scale in \[0, 1\]"):
        CFGPlusPlusGuidance(denoiser, {"text": 7.5})


def test_what_cannot_be_scaled_by_part_is_refused() -> None:
    x, cond, *_ = state()
    with pytest.raises(ValueError, match=r"no part 'txt', its parts are \['image', 'text'\]"):
        ClassifierFreeGuidance(OfTwoParts(), {"txt": 2.0})(x, 0.5, cond)
    with pytest.raises(ValueError, match="no part 'text', its parts are none"):
        ClassifierFreeGuidance(OfTwoParts(), {"text": 2.0})(x, 0.5, part(1.0))
    with pytest.raises(ValueError, match="names no part"):
        ClassifierFreeGuidance(OfTwoParts(), {})
    with pytest.raises(ValueError, match=r"guidance\.classifier_free\.scale\.text"):
        ClassifierFreeGuidance(OfTwoParts(), {"text": [[2.0, 1.0], [1.0, 1.0]]})
    with pytest.raises(ValueError, match="use guidance=classifier_free"):
        APGGuidance(OfTwoParts(), {"text": 2.0})
    fixed = Cond.join({"text": part(1.0), "image": Cond(vector=torch.ones(5, 3))}, concat=True)
    with pytest.raises(ValueError, match="part 'image' of this condition has no null"):
        ClassifierFreeGuidance(OfTwoParts(), {"image": 2.0})(x, 0.5, fixed)
