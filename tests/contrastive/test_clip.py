"""CLIPs as objects: unit vectors, what they read, and what they refuse."""

from __future__ import annotations

import copy
import logging
from pathlib import Path

import pytest
import torch
from tiny_clip import save_clip

from diffusion.contrastive.convolutional import ConvolutionalTower
from diffusion.contrastive.pretrained import PretrainedClip
from diffusion.contrastive.trainable import TrainableClip
from diffusion.text_encoder.words import WordsTextEncoder
from diffusion.training.module.contrastive_loss import ContrastiveLoss

TEXTS = ["a red heart", "", "two hearts and a star"]


def small() -> TrainableClip:
    torch.manual_seed(0)
    return TrainableClip(ConvolutionalTower(3, 8, (8, 16), 1), WordsTextEncoder(8, 6, 1, length=8), dim=5).eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    save_clip(folder)
    return folder


@torch.no_grad()
def test_vectors_have_unit_length_and_do_not_depend_on_their_neighbours(published: Path) -> None:
    image = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    for clip in (small(), PretrainedClip(str(published))):
        for whole, part in ((clip.image(image), clip.image(image[1:2])), (clip.text(TEXTS), clip.text(TEXTS[1:2]))):
            assert whole.shape[1] == clip.dim
            torch.testing.assert_close(whole.norm(dim=1), torch.ones(len(whole)))
            torch.testing.assert_close(whole[1:2], part)
        torch.testing.assert_close(clip.image(image), clip.image(image.float() / 127.5 - 1))


def test_a_clip_of_transformers_is_transformers_own(published: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(published).eval(), CLIPProcessor.from_pretrained(published)
    image = torch.randint(0, 256, (3, 3, 20, 24), dtype=torch.uint8)
    with torch.no_grad():
        inputs = processor(text=list("abc"), images=list(image), return_tensors="pt", padding=True)
        cosines = model(**inputs).logits_per_image / model.logit_scale.exp()
    ours = PretrainedClip(str(published))
    torch.testing.assert_close(ours.image(image) @ ours.text(list("abc")).T, cosines)
    grey = image[:, :1]
    torch.testing.assert_close(ours.image(grey), ours.image(grey.expand(-1, 3, -1, -1)))


def test_images_of_another_shape_are_refused() -> None:
    for shape in ((1, 3, 16, 16), (1, 1, 8, 8)):
        with pytest.raises(ValueError, match=r"reads images of shape \(3, 8, 8\) .*, got"):
            small().image(torch.zeros(shape))


def test_captions_longer_than_the_tokens_are_said(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = " ".join("abcdefghijklmnopqrstuvwxyz")
    with caplog.at_level(logging.WARNING):
        small().text([long])
        assert "text_encoder.length=8 cuts off 'h i j k" in caplog.text
        PretrainedClip(str(published)).text([long])
    assert "evaluation.clip, which reads 16 tokens, cuts off 'o p q" in caplog.text


def test_a_folder_that_holds_no_clip(published: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    with pytest.raises(ValueError, match=r"evaluation\.clip\.pretrained=nowhere is neither a folder"):
        PretrainedClip("nowhere")
    with pytest.raises(ValueError, match=r"holds no model.safetensors; set evaluation\.clip\.pretrained"):
        PretrainedClip(str(tmp_path))
    tiny = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=9, **tiny)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is no CLIPVisionModelWithProjection"):
        PretrainedClip(str(tmp_path))


def test_a_twin_is_a_copy_and_nothing_is_frozen_where_all_is_trained() -> None:
    clip = small()
    twin = clip.twin()
    assert not any(p.requires_grad for p in twin.parameters())
    assert clip.frozen == {}
    with torch.no_grad():
        next(clip.parameters()).add_(1)
    assert not torch.equal(next(clip.parameters()), next(twin.parameters()))


def test_a_pretrained_text_encoder_stays_frozen_and_is_named(published: Path) -> None:
    """The linear map after it is trained."""
    from diffusion.text_encoder.clip import CLIPTextEncoder

    encoder = CLIPTextEncoder(str(published), 16, 512, 16, pooled="projection")
    clip = TrainableClip(ConvolutionalTower(3, 8, (8,), 1), encoder, dim=4)
    assert clip.frozen == {"text_encoder": encoder.sha256}
    assert not any("text_encoder" in name for name in clip.state_dict())
    x = torch.rand(4, 3, 8, 8)
    ContrastiveLoss()(clip.image(x), clip.text(list("abcd")), clip.scale).total.mean().backward()
    assert clip.to_text.weight.grad.abs().sum() > 0
    assert copy.deepcopy(clip).text_encoder.model is encoder.model
