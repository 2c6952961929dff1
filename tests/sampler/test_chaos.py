"""Condition-annealed sampling: its noise in closed form, and images that are the same whatever is drawn beside them."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.none import NoConditioner
from diffusion.conditioner.style_reference import StyleReferenceConditioner
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.model import DiffusionModel
from diffusion.pipeline.chaos import STRENGTH, AnnealedCondition, annealed, kept
from diffusion.randomness import CHAOS, KeyedRandomness
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond, Prediction, combine

SHARES = [0.0, 0.04, 0.3, 0.9]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", SHARES)
def test_it_is_the_papers_equation_with_its_rescaling_in_full(share: float) -> None:
    """Sadat et al. 2024, eq. 3 and section 4, in float64, of a condition that is standardised first as there."""
    y, noise = 3 * normal(2, 64) - 5, normal(2, 64, seed=1)
    (drawn,) = [annealed(Cond(vector=y), share, iter([noise])).vector]
    assert drawn is not None
    for own, n, found in zip(*(one.double().numpy() for one in (y, noise, drawn)), strict=True):
        standard = (own - own.mean()) / own.std()
        noised = np.sqrt(share) * standard + STRENGTH * np.sqrt(1 - share) * n
        rescaled = (noised - noised.mean()) / noised.std()
        np.testing.assert_allclose(found, own.mean() + own.std() * rescaled, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", SHARES)
def test_mean_and_deviation_stay_and_the_correlation_is_known(share: float) -> None:
    """Of independent y and n the correlation of y with y_t is sqrt(g / (g + s^2 (1 - g)))."""
    count, length, dim = 2, 64, 256
    y, noise = 2 + 3 * normal(count, length, dim), normal(count, length, dim, seed=1)
    drawn = annealed(Cond(tokens=y), share, iter([noise])).tokens
    assert drawn is not None
    flat, given = drawn.flatten(1).double(), y.flatten(1).double()
    torch.testing.assert_close(flat.mean(1), given.mean(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flat.std(1), given.std(1), rtol=1e-4, atol=1e-4)
    due = (share / (share + STRENGTH**2 * (1 - share))) ** 0.5
    for one, other in zip(flat, given, strict=True):
        assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1]) - due) < 5 / (length * dim) ** 0.5


def test_tokens_that_do_not_count_and_the_null_stay() -> None:
    y, mask = normal(2, 5, 8), torch.arange(5)[None] < torch.tensor([[2], [5]])
    null = Cond(tokens=torch.zeros(2, 5, 8))
    cond = Cond(tokens=y, mask=mask, vector=normal(2, 8), null=null)
    drawn = annealed(cond, 0.3, iter([normal(2, 8, seed=1), normal(2, 5, 8, seed=2)]))
    assert drawn.null is null
    assert drawn.tokens is not None
    assert torch.equal(drawn.tokens[~mask], y[~mask])
    assert (drawn.tokens[mask] != y[mask]).all()
    alone = annealed(Cond(tokens=y[:1, :2]), 0.3, iter([normal(2, 5, 8, seed=2)[:1, :2]])).tokens
    torch.testing.assert_close(drawn.tokens[:1, :2], alone, msg="padding is not in the moments")
    joined = Cond.join({"a": Cond(vector=normal(2, 8), null=Cond(vector=torch.ones(2, 8))), "b": cond})
    both = annealed(joined, 0.3, iter([normal(2, 8, seed=3), normal(2, 8, seed=1), normal(2, 5, 8, seed=2)]))
    torch.testing.assert_close(both.tokens, drawn.tokens)
    torch.testing.assert_close(both.vector, both.parts["a"].vector + drawn.vector)
    assert both.null is joined.null


def test_the_share_falls_from_one_to_none_along_time() -> None:
    for chaos in (0.2, 0.4, 1.0):
        assert kept(chaos, 1 - chaos) == 1
        assert kept(chaos, 1 - chaos / 4) == kept(chaos, 1.0) == 0
        assert kept(chaos, 1 - 5 / 8 * chaos) == pytest.approx(0.5)
    assert kept(0.4, 0.6) == 1
    shares = [kept(0.4, t / 50) for t in range(51)]
    assert all(later <= earlier for earlier, later in pairwise(shares))


class Pixel(nn.Module):
    """x_0 is the first number of the condition's vector, in every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = CosineSchedule()

    def forward(self, x: Tensor, t: Tensor | float, cond: Cond) -> Prediction:
        assert cond.vector is not None
        x0 = cond.vector[:, :1, None, None].expand_as(x)
        level = self.schedule.level(t)
        return Prediction(x0, combine(1 / level.sigma, x, -level.alpha / level.sigma, x0))


def model(conditioner: Any = None, **guidance: Any) -> DiffusionModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = LabelConditioner(3, dim=16) if conditioner is None else conditioner()
    wrappers = {"classifier_free": partial(ClassifierFreeGuidance, **guidance)} if guidance else {}
    return DiffusionModel(Pixel(), made, sampler=DDIMSampler(4), guidance=wrappers, shape=(1, 4, 4)).eval()


@torch.no_grad()
def test_an_image_has_the_noise_of_its_seed_and_number_alone() -> None:
    """DDIM ends at the x_0 of its last level, t = 1/4, which is the first number of y there."""
    drawn, index = model(), torch.arange(5)
    pipeline = drawn.pipeline(chaos=1.0, labels=1, batch_size=5)
    y = drawn.conditioner({"label": torch.ones(5, dtype=torch.long)}).vector
    noise = KeyedRandomness(index, seed=7, stream=CHAOS).randn_like(y)
    due = annealed(Cond(vector=y), kept(1.0, 0.25), iter([noise])).vector
    found = pipeline.images(index, 7)
    torch.testing.assert_close(found[:, 0, 0, 0], due[:, 0], rtol=1e-5, atol=1e-5)
    assert len(set(found[:, 0, 0, 0].tolist())) == 5
    assert torch.equal(pipeline.values(index[3:4], 7), found[3:4].float())
    settings: dict[str, Any] = {"seed": 7, "labels": 1, "batch_size": 4}
    several = drawn.sample(5, chaos=1.0, **settings)
    assert torch.equal(several[4:], drawn.sample(9, chaos=1.0, index=[4], **settings))
    assert not torch.equal(several, drawn.sample(5, chaos=1.0, **{**settings, "seed": 8}))
    assert torch.equal(drawn.sample(5, **settings), drawn.sample(5, chaos=0.0, **settings))
    assert pipeline.describe()["chaos"] == 1.0
    assert "chaos" not in drawn.pipeline().describe()


@torch.no_grad()
def test_more_of_it_spreads_images_more() -> None:
    drawn = model()
    spread = [
        float(drawn.pipeline(chaos=chaos, labels=1, batch_size=64).images(torch.arange(64), 0).std(0).mean())
        for chaos in (0.0, 0.8, 0.9, 1.0)
    ]
    assert spread[0] < 1e-6 < spread[1]
    assert all(less < more for less, more in pairwise(spread))


@torch.no_grad()
def test_guidance_leads_from_the_null_to_the_noised_condition() -> None:
    drawn = model(scale=3.0)
    x, t = normal(2, 1, 4, 4), 0.3
    cond = drawn.conditioner({"label": torch.tensor([0, 2])})
    random = KeyedRandomness([0, 1], seed=0, stream=CHAOS)
    whole = AnnealedCondition(drawn.guided(), cond, 1.0, random.randn_like)
    there = annealed(cond, kept(1.0, t), iter(whole.noise)).vector[:, 0]
    null = cond.null.vector[:, 0]
    torch.testing.assert_close(whole(x, t, cond).x0[:, 0, 0, 0], null + 3 * (there - null), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_is_one_sentence() -> None:
    for chaos in (1.5, -0.1, True):
        with pytest.raises(ValueError, match="chaos is a number from 0 to 1"):
            model().pipeline(chaos=chaos)
    with pytest.raises(ValueError, match="this model has none; leave chaos out"):
        model(NoConditioner).pipeline(chaos=0.5)
    with pytest.raises(ValueError, match=r"above the time 0\.9, and this sampler has no step below"):
        model().pipeline(chaos=0.4, sampler=DDIMSampler(1))
    assert model().pipeline(chaos=0.4, sampler=DDIMSampler(2)).chaos == 0.4


def styled() -> JoinedConditioner:
    style = StyleReferenceConditioner(widths=(4,), embedding_dim=5, dim=16, token_dim=0)
    return JoinedConditioner({"label": LabelConditioner(3, dim=16), "style": style}, dim=16)


@torch.no_grad()
@pytest.mark.parametrize("own", [3.0, {"label": 3.0, "style": 2.0}])
def test_a_style_has_a_scale_of_its_own(own: Any) -> None:
    """Brooks et al. 2023, eq. 3, in the conditions of a denoiser that is linear in them."""
    drawn = model(styled, scale=own)
    reference = normal(3, 8, 8).clamp(-1, 1)
    conditioner: Any = drawn.conditioner
    y = conditioner.parts["label"]({"label": torch.tensor([1])})
    z = conditioner.parts["style"]({"reference": reference[None]})
    first, none = (float((v - w)[0, 0]) for v, w in ((y.vector, y.null.vector), (z.vector, z.null.vector)))
    base = float((y.null.vector + z.null.vector)[0, 0])
    settings: dict[str, Any] = {"labels": 1, "style_reference": reference}
    for stylize in (0.0, 1.0, 2.5):
        due = base + 3 * first + stylize * none
        found = drawn.sample(1, stylize=stylize, **settings)
        assert abs(float(found[0, 0, 0, 0]) - min(255, max(0, 127.5 * due + 127.5))) < 1.01
    same = 2.0 if isinstance(own, dict) else 3.0
    assert torch.equal(drawn.sample(2, stylize=same, **settings), drawn.sample(2, **settings))
    if same == 3.0:
        assert torch.equal(drawn.sample(2, stylize=0.0, **settings), drawn.sample(2, labels=1)), "no style at all"
    with pytest.raises(ValueError, match="there is none; give style_reference"):
        drawn.sample(1, stylize=2.0)
    pipeline = drawn.pipeline(stylize=2.5)
    assert pipeline.describe()["stylize"] == 2.5
    with pytest.raises(ValueError, match="is drawn without it; add guidance=classifier_free"):
        drawn.pipeline(guidance={}, stylize=2.0)
