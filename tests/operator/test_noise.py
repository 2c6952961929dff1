"""Noise estimated from a measurement, against the noise that was put in."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from diffusion.denoiser import GaussianDenoiser
from diffusion.editing.restore import RestoreEdit
from diffusion.guidance import DPSGuidance, PiGDMGuidance
from diffusion.operator import (
    BlurOperator,
    DownsampleOperator,
    FourierOperator,
    MaskOperator,
    Operator,
    estimated_noise,
)
from diffusion.operator.noise import LEAST
from diffusion.schedule.cosine import CosineSchedule


def scene(side: int = 128) -> Tensor:
    """Waves, and a disc with a sharp edge."""
    line = torch.linspace(0, 1, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    disc = ((x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.06).float()
    return (0.5 * torch.sin(9 * x + 4 * y) + 0.4 * disc - 0.2)[None, None]


def noisy(operator: Operator, noise: float) -> Tensor:
    y = operator(scene())
    drawn = noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    return operator(drawn) + y if isinstance(operator, MaskOperator) else y + drawn


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5])
@pytest.mark.parametrize(
    "operator",
    [MaskOperator(box=[30, 30, 64, 64]), MaskOperator(hidden=0.5), DownsampleOperator(2), BlurOperator(1.5)],
    ids=["box", "random", "x2", "blur"],
)
def test_the_estimate_is_the_noise_that_was_put_in(operator: Operator, noise: float) -> None:
    assert estimated_noise(noisy(operator, noise)) == pytest.approx(noise, rel=0.08)


def test_it_scales_and_does_not_see_the_mean_and_is_never_0() -> None:
    y = noisy(BlurOperator(1.5), 0.1)
    assert estimated_noise(3 * y + 7) == pytest.approx(3 * estimated_noise(y), rel=1e-4)
    assert estimated_noise(torch.full((1, 1, 8, 8), 0.3)) == LEAST
    with pytest.raises(ValueError, match=r"there is none; set edit\.estimate_noise=false"):
        estimated_noise(torch.zeros(1, 1, 8, 8))


def posterior(kind: type, operator: Operator) -> dict[str, partial]:
    return {"it": partial(kind, operator=operator)}


def test_a_restoration_tells_its_guidance_the_noise() -> None:
    operator, told = BlurOperator(1.5), []
    edit = RestoreEdit(posterior(PiGDMGuidance, operator), estimate_noise=True)
    y = noisy(operator, 0.2)
    assert edit.noise(y[0]) == estimated_noise(y)
    assert RestoreEdit(posterior(PiGDMGuidance, operator)).noise(y[0]) is None

    def sampler(guided: PiGDMGuidance, *given: object, **more: object) -> Tensor:
        told.append(guided.noise)
        return y

    denoiser = GaussianDenoiser(CosineSchedule())
    subject = dict.fromkeys(("noise", "cond", "randn_like", "on_step", "autoencoder"))
    edit(SimpleNamespace(x0=y, denoiser=denoiser, sampler=sampler, **subject))  # type: ignore[arg-type]
    assert told == [pytest.approx(0.2, rel=0.08)]


@pytest.mark.parametrize(
    ("kind", "operator", "sentence"),
    [
        (DPSGuidance, BlurOperator(1.5), "knows no noise that could be estimated"),
        (PiGDMGuidance, FourierOperator(2.0, 0.2), "FourierOperator are none"),
    ],
)
def test_noise_that_cannot_be_estimated_is_refused(kind: type, operator: Operator, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"{sentence}.* set edit.estimate_noise=false"):
        RestoreEdit(posterior(kind, operator), estimate_noise=True)
