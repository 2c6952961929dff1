"""Masks on latents: what they keep is the image's own, not what a decoder makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffusion.autoencoder.base import Autoencoder
from diffusion.denoiser import GaussianDenoiser
from diffusion.editing import InpaintEdit
from diffusion.editing.base import Edit, MaskUse, Subject
from diffusion.editing.frame import paste, seam
from diffusion.editing.pipeline import EditPipeline
from diffusion.model import DiffusionModel
from diffusion.pipeline.base import Request
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule

FACTOR = 4


class Lossy(Autoencoder):
    """Means of squares, decoded brighter than they were."""

    def encode(self, image: Tensor, randn_like: object | None = None) -> Tensor:
        return torch.nn.functional.avg_pool2d(image, FACTOR)

    def decode(self, latent: Tensor) -> Tensor:
        return 0.5 * latent.repeat_interleave(FACTOR, -1).repeat_interleave(FACTOR, -2) + 0.4


class Spy(InpaintEdit):
    """Finds a mask by itself, and keeps what it was given."""

    mask: MaskUse = "optional"

    def found(self, subject: Subject) -> Tensor:
        mask = torch.zeros_like(subject.x0[:, :1])
        mask[:, :, 1:3, 1:4] = 1
        return mask

    def __call__(self, subject: Subject) -> Tensor:
        self.subject = subject
        return super().__call__(subject)


def pipeline(edit: Edit) -> EditPipeline:
    model = DiffusionModel(
        GaussianDenoiser(CosineSchedule(), 0.0, 0.5),  # type: ignore[arg-type] - any denoiser can be sampled
        autoencoder=Lossy(),
        sampler=DDIMSampler(5),
        shape=(1, 16, 16),
    )
    return EditPipeline(model.eval(), edit, batch_size=2)


def image() -> Tensor:
    return torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pixel", [(0, 0), (3, 7), (8, 15), (15, 15)])
def test_a_latent_is_kept_only_where_all_of_its_pixels_are(pixel: tuple[int, int]) -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, pixel[0], pixel[1]] = 1
    edit = Spy()
    pipeline(edit).draw(torch.arange(2), 0, Request(image=image(), mask=mask))
    wanted = torch.zeros(2, 1, 4, 4)
    wanted[:, :, pixel[0] // FACTOR, pixel[1] // FACTOR] = 1
    assert edit.subject.mask is not None
    assert (edit.subject.mask == wanted).all()


def test_kept_latents_are_the_images_own_and_a_paste_keeps_its_pixels() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, 5:9, 2:11] = 1
    edit = InpaintEdit()
    drawn = pipeline(edit).draw(torch.arange(2), 0, Request(image=image(), mask=mask))
    assert (drawn != image()).float().mean() > 0.9, "the decoder changes all pixels"
    for before, made in zip(image(), drawn, strict=True):
        after = paste(made, before, mask[0, 0] > 0, FACTOR)
        kept = mask[0, 0] == 0
        assert (after[:, kept] == before[:, kept]).all()
        assert (after[:, ~kept] != before[:, ~kept]).any()


def test_what_a_found_mask_keeps_is_the_images_to_the_bit() -> None:
    drawn = pipeline(Spy()).draw(torch.arange(2), 0, Request(image=image()))
    free = torch.zeros(16, 16, dtype=torch.bool)
    free[4:12, 4:16] = True
    assert (drawn[..., ~free] == image()[..., ~free]).all()
    assert (drawn[..., free] != image()[..., free]).float().mean() > 0.9


def test_the_seam_rises_inside_of_the_mask() -> None:
    mask = torch.zeros(1, 1, 1, 12)
    mask[..., 3:] = 1  # up to the image's edge, where there is no seam
    torch.testing.assert_close(seam(mask, 4)[0, 0, 0], torch.tensor([0.0] * 3 + [0.25, 0.5, 0.75] + [1.0] * 6))
    assert (seam(mask, 0) == mask).all()
