"""Embeddings of a batch's images by a CLIP that another run trained: for a prior and for a decoder."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffusion.autoencoder.embedding import EmbeddingAutoencoder
from diffusion.conditioner.image_embedding import ImageEmbeddingConditioner
from diffusion.conditioner.joined import JoinedConditioner
from diffusion.contrastive.convolutional import ConvolutionalTower
from diffusion.contrastive.trainable import TrainableClip
from diffusion.data.split import Split
from diffusion.experiment.config.stand_ins import with_stand_ins
from diffusion.image_encoder import ImageEncoder
from diffusion.text_encoder.words import WordsTextEncoder

SHA256 = "abc" + "0" * 61


@pytest.fixture
def clip(monkeypatch: pytest.MonkeyPatch) -> TrainableClip:
    """What every run folder holds in a test."""
    torch.manual_seed(0)
    words = WordsTextEncoder(dim=8, pooled_dim=8, depth=1, heads=1, length=4, vocabulary=16)
    made = TrainableClip(ConvolutionalTower(3, 8, widths=(8, 8), blocks=1), words, dim=6)
    made.sha256 = SHA256
    made.requires_grad_(False).eval()

    def load(run: str, checkpoint: str, weights: str, kinds: tuple[str, ...]) -> TrainableClip:
        assert kinds == ("contrastive",), "a run of something else is refused"
        return made

    monkeypatch.setattr("diffusion.experiment.build.load.load", load)
    return made


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def conditioner(**settings: object) -> ImageEmbeddingConditioner:
    return ImageEmbeddingConditioner(**{"embedding_dim": 6, "dim": 5, "token_dim": 4, "run": "somewhere"} | settings)


def coder(**settings: object) -> EmbeddingAutoencoder:
    return EmbeddingAutoencoder(**{"channels": 6, "scale": 2.0, "run": "somewhere"} | settings)


def test_a_decoder_reads_what_the_clip_makes_of_its_images(clip: TrainableClip) -> None:
    part = conditioner()
    cond = part({"image": images()})
    due = part({"image_embedding": clip.image(images())})
    torch.testing.assert_close(cond.vector, due.vector, rtol=0, atol=0)
    torch.testing.assert_close(cond.tokens, due.tokens, rtol=0, atol=0)
    assert torch.equal(cond.source["image_embedding"], clip.image(images())), (
        "kept, so that a drop need not make it again"
    )
    joined = JoinedConditioner({"image": part}, dim=5, token_dim=4)
    assert torch.equal(joined({"image": images()}).vector, cond.vector)
    given = torch.ones(3, 6)
    asked = part({"image": images(), "image_embedding": given})
    assert torch.equal(asked.source["image_embedding"], given), "what is requested comes before images"


def test_a_prior_is_trained_on_what_the_clip_makes_of_its_images(clip: TrainableClip) -> None:
    part = coder()
    embedding = part.completed({"image": images()})["image_embedding"]
    assert torch.equal(embedding, clip.image(images()))
    torch.testing.assert_close(part.encode(embedding).norm(dim=1), torch.full((3,), 2.0))
    torch.testing.assert_close(part.decode(part.encode(embedding)), embedding)
    assert coder(run=None).completed({"image": images()}).keys() == {"image"}


@pytest.mark.parametrize("make", [conditioner, coder])
def test_the_clip_is_named_by_its_weights_and_is_no_part_of_the_module(
    clip: TrainableClip, make: Callable[..., torch.nn.Module]
) -> None:
    part, without = make(), make(run=None)
    assert part.state_dict().keys() == without.state_dict().keys()
    assert [p.shape for p in part.parameters()] == [p.shape for p in without.parameters()]
    assert part.clip == part.sha256 == SHA256, "what a pipeline compares, and a checkpoint records"
    assert make(clip="abc").clip == SHA256
    twin = copy.deepcopy(part)
    assert torch.equal(
        twin.completed({"image": images()})["image_embedding"], part.completed({"image": images()})["image_embedding"]
    )
    assert twin.encoder is part.encoder, "an average shares it"
    with pytest.raises(ValueError, match="clip expects def"):
        make(clip="def")


def test_a_clip_of_another_width_is_refused(clip: TrainableClip) -> None:
    with pytest.raises(ValueError, match=r"embedding_dim is 7, and the CLIP of somewhere has embeddings of 6 numbers"):
        conditioner(embedding_dim=7)
    with pytest.raises(ValueError, match=r"set autoencoder\.channels=6"):
        coder(channels=7)
    with pytest.raises(ValueError, match="reads images of shape"):
        conditioner()({"image": torch.zeros(1, 3, 16, 16)})


def test_precision_and_statistics_leave_the_embeddings_alone(clip: TrainableClip, tmp_path) -> None:
    from safetensors.torch import save_file

    encoder = ImageEncoder("somewhere", "last", "ema", 6, None, "autoencoder.channels")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = encoder.completed({"image": images().bfloat16().float()})["image_embedding"]
    assert torch.equal(made, clip.image(images().bfloat16().float()))
    save_file({"mean": torch.ones(6), "std": torch.full((6,), 2.0)}, tmp_path / "statistics.safetensors")
    part = coder(statistics=str(tmp_path / "statistics.safetensors"))
    assert part.sha256 not in (SHA256, None), "of both"
    assert part.clip == SHA256


def test_samples_are_requested_of_the_embeddings_of_held_out_images() -> None:
    split = Split(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), ("a", "b"))
    assert "image" in split.requests_for(["text", "image_embedding"])
    assert "image" not in split.requests_for(["text"])


def test_a_config_is_checked_without_the_clip() -> None:
    node = {"_target_": "diffusion.conditioner.image_embedding.ImageEmbeddingConditioner", "run": "nowhere"}
    assert with_stand_ins({"parts": {"image": node}})["parts"]["image"]["run"] is None
