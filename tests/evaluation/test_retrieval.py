"""Retrieval and R-precision against counting by hand, chance and certainty."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.contrastive.trainable import TrainableClip
from diffusion.evaluation.metrics.r_precision import nearest_shares
from diffusion.evaluation.retrieval import RetrievalEvaluator, ranks


def vectors(n: int, d: int = 6, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_ranks_are_those_of_sorting_by_hand() -> None:
    """Several images of a text are all right for it, and none of them stands before another."""
    images, texts = vectors(40), vectors(25, seed=1)
    own = torch.cat((torch.arange(25), torch.arange(15)))
    of_images, of_texts = ranks(images, texts, own)
    for i in range(40):
        order = sorted(range(25), key=lambda j: -float(images[i].double() @ texts[j].double()))
        assert of_images[i] == order.index(int(own[i]))
    for j in range(25):
        order = sorted(range(40), key=lambda i: -float(images[i].double() @ texts[j].double()))
        assert of_texts[j] == min(order.index(i) for i in range(40) if own[i] == j)


def test_what_is_as_near_stands_before_the_right_one() -> None:
    same = F.normalize(torch.ones(5, 3), dim=1)
    assert [rank.tolist() for rank in ranks(same, same, torch.arange(5))] == [[4] * 5, [4] * 5]


class Table(TrainableClip):
    """Images are their numbers, and so are texts: vectors of a table."""

    def __init__(self, images: Tensor, texts: dict[str, Tensor]) -> None:
        torch.nn.Module.__init__(self)
        self.weight, self.texts, self.classes = torch.nn.Parameter(images), texts, ()

    def image(self, image: Tensor) -> Tensor:
        return self.weight[image.flatten(1)[:, 0].long()]

    def text(self, texts: Any) -> Tensor:
        return torch.stack([self.texts[text] for text in texts])

    def describe(self) -> dict[str, Any]:
        return {}


class Data:
    """Image i is the number i; captions and labels are given."""

    def __init__(self, texts: tuple[str, ...] | None, labels: Tensor, classes: int) -> None:
        self.images = torch.arange(len(labels)).reshape(-1, 1, 1, 1)
        self.texts, self.labels, self.classes, self.sha256 = texts, labels, classes, "0"

    def split(self, name: str) -> Data:
        return self

    def describe(self) -> dict[str, Any]:
        return {"num_classes": self.classes}

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor) -> dict[str, Any]:
        return {"image": self.images[rows], "text": [self.texts[i] for i in rows.tolist()]}


def test_scores_are_shares_of_pairs_that_are_found() -> None:
    axes = torch.eye(4)
    texts = dict(zip("abcd", axes, strict=True)) | {"first": axes[0], "last": axes[3]}
    images = F.normalize(torch.stack((axes[0], axes[1], axes[3] + 0.5 * axes[2], axes[3], axes[0])), dim=1)
    data = Data(("a", "b", "c", "d", "a"), torch.tensor([0, 0, 1, 1, 1]), 2)
    found = RetrievalEvaluator(batch_size=2, k=[1, 2], classes=["first", "last"]).evaluate(Table(images, texts), data)
    assert found.metrics == {
        "image_to_text_r1_5": 4 / 5,  # the third is nearer to d
        "image_to_text_r2_5": 1.0,
        "text_to_image_r1_5": 1.0,  # c finds the third, as no other image has anything of it
        "text_to_image_r2_5": 1.0,
        "zero_shot_5": 4 / 5,  # the last one looks like the first class, and the second like neither
    }
    assert {*found.better.values()} == {"higher"}
    assert "zero_shot_5" not in RetrievalEvaluator().evaluate(Table(images, texts), data).metrics


def test_what_cannot_be_scored_is_refused() -> None:
    table = Table(torch.eye(3), {})
    with pytest.raises(ValueError, match="retrieval needs captions"):
        RetrievalEvaluator().evaluate(table, Data(None, torch.zeros(3), 0))
    with pytest.raises(ValueError, match="a text for each of 2 classes, got 3"):
        RetrievalEvaluator(classes=["a", "b", "c"]).evaluate(table, Data(("a",) * 3, torch.zeros(3), 2))


def test_r_precision_of_a_judge_that_knows_nothing_is_chance() -> None:
    """1 / 100, within three standard deviations of 4,000 draws; and to the digit where all captions are alike."""
    own = torch.arange(4000) % 1000
    found = nearest_shares(vectors(4000, 16), vectors(1000, 16, seed=1), own, 100, 0)
    assert abs(float(found.mean()) - 0.01) < 3 * (0.01 * 0.99 / 4000) ** 0.5
    alike = F.normalize(torch.ones(1000, 16), dim=1)
    assert nearest_shares(vectors(4000, 16), alike, own, 100, 0).sub(0.01).abs().max() < 1e-9


def test_r_precision_of_perfect_vectors_is_one_whatever_the_others_are() -> None:
    texts, own = vectors(300, 16), torch.arange(600) % 300
    for seed in range(3):
        assert nearest_shares(texts[own], texts, own, 100, seed).eq(1).all()
    assert nearest_shares(-texts[own], texts, own, 100, 0).eq(0).all()


def test_the_others_are_all_captions_but_the_own_one() -> None:
    """Two images whose captions are the other's: each finds its caption only where the other is not drawn."""
    texts, own = torch.eye(10), torch.tensor([1, 0])
    assert nearest_shares(torch.eye(10)[:2], texts, own, 10, 0).eq(0).all(), "all others are drawn"
    found = torch.stack([nearest_shares(torch.eye(10)[:2], texts, own, 2, seed) for seed in range(400)])
    missed = found.eq(0).double().mean()  # one of nine others is drawn
    assert abs(float(missed) - 1 / 9) < 3 * (1 / 9 * 8 / 9 / 800) ** 0.5
