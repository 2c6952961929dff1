"""Edits in the space of a CLIP (DALL-E 2, section 3) against closed forms on Gaussian data, and on a model with one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_editing import STD, image, mean, subject
from torch import Tensor
from torch.nn.functional import normalize

from diffusion.conditioner.image_embedding import ImageEmbeddingConditioner
from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.text import TextConditioner
from diffusion.contrastive.convolutional import ConvolutionalTower
from diffusion.contrastive.trainable import TrainableClip
from diffusion.denoiser import NetworkDenoiser
from diffusion.editing.base import Edit, Embedded, Subject, slerp
from diffusion.editing.interpolate import InterpolateEdit
from diffusion.editing.invert import InvertEdit
from diffusion.editing.pipeline import EditPipeline
from diffusion.editing.text_difference import TextDifferenceEdit
from diffusion.editing.variation import VariationEdit
from diffusion.model import DiffusionModel
from diffusion.network.unet import UNet
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.pipeline.base import Request
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.text_encoder.words import WordsTextEncoder
from diffusion.types import Cond


def unit(*numbers: float) -> Tensor:
    return normalize(torch.tensor([numbers], dtype=torch.float64), dim=1)


FIRST, SECOND, TEXT, SOURCE = unit(0.3, 1, 0), unit(-0.6, 0.2, 1), unit(1, 0, 0.4), unit(0, 1, 1)


def conditioned(embedding: Tensor) -> Cond:
    """The first number of an embedding is the mean of its images, all else is as in test_editing."""
    return mean(float(embedding[0, 0]), 1)


def embedded(*images: Tensor) -> Subject:
    space = Embedded((FIRST, SECOND)[: len(images)], TEXT, SOURCE, conditioned, conditioned)
    own = conditioned(FIRST)
    return replace(subject(*images, sampler=DDIMSampler(400)), embedded=space, cond=own, source=own)


@pytest.mark.parametrize("amount", [0.0, 0.4, 1.0])
def test_an_interpolation_turns_noise_and_embedding_and_ends_at_the_images(amount: float) -> None:
    """The flow of N(m, STD^2) takes x to the noise (x - m) / STD and back."""
    first, second = image(seed=1), image(seed=2)
    out = InterpolateEdit(amount)(embedded(first, second))
    noise = slerp((first - FIRST[0, 0]) / STD, (second - SECOND[0, 0]) / STD, amount)
    torch.testing.assert_close(out, slerp(FIRST, SECOND, amount)[0, 0] + STD * noise, atol=0.02, rtol=0)
    if amount in (0.0, 1.0):
        torch.testing.assert_close(out, second if amount else first, atol=0.02, rtol=0)
    plain = InterpolateEdit(amount)(subject(first, second, sampler=DDIMSampler(400)))
    torch.testing.assert_close(plain, STD * slerp(first / STD, second / STD, amount), atol=0.02, rtol=0)


@pytest.mark.parametrize("amount", [0.25, 1.0])
def test_a_text_difference_moves_the_embedding_and_keeps_the_noise(amount: float) -> None:
    x0 = image()
    direction = normalize(TEXT - SOURCE, dim=1)
    out = TextDifferenceEdit(amount)(embedded(x0))
    torch.testing.assert_close(out, x0 + slerp(FIRST, direction, amount)[0, 0] - FIRST[0, 0], atol=0.02, rtol=0)


def test_a_variation_of_eta_keeps_the_embedding_alone() -> None:
    """DDPM's chain forgets where it started: samples of N(m, STD^2) that have nothing to do with the image."""
    x0 = image(side=80)
    out = VariationEdit(amount=0.0, eta=1.0)(embedded(x0))
    assert float(out.mean()) == pytest.approx(float(FIRST[0, 0]), abs=0.04)
    assert float(out.var()) == pytest.approx(STD**2, rel=0.06)
    assert abs(float(torch.corrcoef(torch.stack([out.flatten(), x0.flatten()]))[0, 1])) < 0.06
    near = VariationEdit(amount=0.0, eta=1e-4)(embedded(x0))
    torch.testing.assert_close(near, x0, atol=0.02, rtol=0)


def test_wrong_edits_are_refused() -> None:
    with pytest.raises(ValueError, match=r"amount 0 and eta 0 is the image itself"):
        VariationEdit(amount=0.0)
    with pytest.raises(ValueError, match=r"the sampler is HeunSampler; use sampler=ddim"):
        VariationEdit(eta=0.5)(subject(image(), sampler=HeunSampler(4)))
    with pytest.raises(ValueError, match=r"got 3; give two"):
        InterpolateEdit()(subject(image(), image(), image()))
    with pytest.raises(ValueError, match=r"this model draws with none"):
        TextDifferenceEdit()(subject(image()))
    one = embedded(image())
    with pytest.raises(ValueError, match=r"these are the same"):
        TextDifferenceEdit()(replace(one, embedded=replace(one.embedded, source_text=TEXT)))


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> DiffusionModel:
    """unCLIP's decoder of 8 x 8 grey images, untrained, with weights everywhere."""
    torch.manual_seed(0)
    words = WordsTextEncoder(dim=8, pooled_dim=8, depth=1, heads=1, length=4, vocabulary=16)
    clip = TrainableClip(ConvolutionalTower(1, 8, widths=(8, 8), blocks=1), words, dim=6)
    clip.sha256 = "0" * 64
    monkeypatch.setattr("diffusion.experiment.build.load.load", lambda *_, **__: clip.requires_grad_(False).eval())
    parts = {
        "image": ImageEmbeddingConditioner(6, dim=8, token_dim=8, run="somewhere"),
        "text": TextConditioner(WordsTextEncoder(8, 8, 1, 1, 4, 16), dim=8, token_dim=8),
    }
    network = UNet(1, 8, channels=8, channel_mult=(1, 2), attention=(4,), cond_dim=8, token_dim=8)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    denoiser = NetworkDenoiser(network, CosineSchedule(), VelocityParameterization())
    joined = JoinedConditioner(parts, dim=8, token_dim=8)
    return DiffusionModel(denoiser, joined, sampler=DDIMSampler(60), shape=(1, 8, 8)).eval().double()


def edited(model: DiffusionModel, edit: Edit, pixels: Tensor) -> Tensor:
    pipeline = EditPipeline(model, edit, batch_size=2)
    request = Request(text=["", ""], image=pixels)
    pipeline.check(request)
    return pipeline.images(torch.arange(2), 0, request)


def test_a_decoder_inverts_an_image_with_its_own_embedding(decoder: DiffusionModel) -> None:
    pixels = torch.randint(0, 256, (2, 2, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    first, second = (pixels[:, i : i + 1].double() / 127.5 - 1 for i in (0, 1))
    pipeline = EditPipeline(decoder, InvertEdit(), batch_size=2)
    embedding = pipeline.encoder.clip.image(first.float()).double()
    source = pipeline.source(torch.arange(2), 0, Request(text=["a", "b"], image_embedding=embedding))
    due = decoder.conditioner({"image_embedding": embedding, "text": ["a", "b"]}).without("text")
    torch.testing.assert_close(source.vector, due.vector)
    torch.testing.assert_close(edited(decoder, InvertEdit(), pixels[:, :1]), first, atol=0.1, rtol=0)
    torch.testing.assert_close(edited(decoder, InterpolateEdit(0.0), pixels), first, atol=0.1, rtol=0)
    torch.testing.assert_close(edited(decoder, InterpolateEdit(1.0), pixels), second, atol=0.1, rtol=0)
    without = DiffusionModel(decoder.denoiser, ImageEmbeddingConditioner(6), sampler=DDIMSampler(2), shape=(1, 8, 8))
    with pytest.raises(ValueError, match="names none that embeds an image"):
        EditPipeline(without, InvertEdit())
