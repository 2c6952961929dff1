"""The contract of an edit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diffusion.denoiser import GaussianDenoiser
from diffusion.editing.base import Edit, Embedded, Subject
from diffusion.randomness import SAMPLING, KeyedRandomness
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond

SIDE = 8


def check_edit(edit: Edit, masked: bool = False) -> None:
    """Images of noise come out edited: finite, of the size that they had, each a function of its own noise alone, and
    the same where a mask keeps them.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    what = type(edit).__name__
    together, alone = edit(_subject(edit, [0, 1], masked)), edit(_subject(edit, [1], masked))
    side = (SIDE, SIDE) if edit.measures else _subject(edit, [0], masked).x0.shape[-2:]
    assert together.shape == (2, 1, *side), f"{what} makes {list(together.shape)} of two images of {list(side)}"
    assert torch.isfinite(together).all(), f"{what} gives values that are not finite"
    assert torch.allclose(together[1:], alone, atol=1e-5), f"an image of {what} depends on those beside it"
    if masked:
        subject = _subject(edit, [0, 1], masked)
        assert subject.mask is not None
        kept = (together - subject.x0).abs() * (1 - subject.mask)
        assert float(kept.max()) < 1e-5, f"{what} changes what the mask keeps"


def _subject(edit: Edit, index: list[int], masked: bool) -> Subject:
    random = KeyedRandomness(index, seed=0, stream=SAMPLING)
    denoiser = GaussianDenoiser(CosineSchedule(), 0.1, 0.7)
    height, width = edit.side(SIDE, SIDE, (SIDE, SIDE)) if edit.measures else (SIDE, SIDE)
    images = tuple(
        random.randn_like(torch.empty(len(index), 1, height, width)).clamp(-1, 1) for _ in range(edit.images or 2)
    )
    mask: Tensor | None = None
    if masked:
        mask = torch.zeros(len(index), 1, height, width)
        mask[..., height // 2 :, :] = 1
    return Subject(
        images=images,
        mask=mask,
        sampler=DDIMSampler(6),
        denoiser=denoiser,
        cond=Cond(),
        plain=denoiser,
        source=Cond(),
        noise=random.randn_like(torch.empty(len(index), 1, SIDE, SIDE)),
        randn_like=random.randn_like,
        tile=(SIDE, SIDE),
        embedded=Embedded(*_embeddings(random, len(index), len(images)), lambda _: Cond(), lambda _: Cond()),
    )


def _embeddings(random: KeyedRandomness, count: int, images: int) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Of the images, of the new text and of the source: unit vectors of three numbers."""
    found = [normalize(random.randn_like(torch.empty(count, 3)), dim=1) for _ in range(images + 2)]
    return tuple(found[:-2]), found[-2], found[-1]
