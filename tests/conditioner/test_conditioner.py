"""Conditioners: the columns of a batch as a condition."""

from __future__ import annotations

import pytest
import torch

from diffusion.autoencoder.identity import IdentityAutoencoder
from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.none import NoConditioner


def test_none_is_empty() -> None:
    assert NoConditioner()({"image": torch.zeros(2, 1, 8, 8), "label": torch.zeros(2, dtype=torch.long)}).is_empty


def test_labels_pick_rows_and_null_is_its_own() -> None:
    conditioner = LabelConditioner(3, dim=5)
    cond = conditioner({"label": torch.tensor([2, 0, 2])})
    rows = conditioner.embedding.weight
    assert torch.equal(cond.vector, rows[[2, 0, 2]])
    assert torch.equal(cond.drop().vector, rows[[3, 3, 3]])
    assert cond.class_label.tolist() == [2, 0, 2]
    mixed = cond.drop(torch.tensor([True, False, False]))
    assert torch.equal(mixed.vector, rows[[3, 0, 2]])


def test_null_row_learns() -> None:
    conditioner = LabelConditioner(3, dim=5)
    cond = conditioner({"label": torch.tensor([1, 1])})
    cond.drop(torch.tensor([True, False])).vector.sum().backward()
    assert conditioner.embedding.weight.grad.any(1).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        (torch.tensor([0, 3]), r"lie in 0..2, got \[3\]"),
        (torch.tensor([-1]), r"got \[-1\]"),
        (torch.tensor([0.5]), "whole numbers"),
        (torch.tensor([[1]]), r"shape \(B,\)"),
        (["cat"], "column 'label' has list"),
        (None, 'LabelConditioner reads batch\\["label"\\], which this batch lacks'),
    ],
)
def test_bad_labels_are_refused(label: torch.Tensor | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LabelConditioner(3, dim=5)({} if label is None else {"label": label})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_classes": 0}, "use conditioner=none"),
        ({"num_classes": 3, "dim": 0}, "conditioner.dim"),
        ({"num_classes": 3, "drop": 1.5}, "probability"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LabelConditioner(**settings)


def test_a_column_has_a_name_and_stays_with_the_condition() -> None:
    conditioner = LabelConditioner(5, dim=4, column="style")
    assert conditioner.columns == ("style",)
    cond = conditioner({"label": torch.tensor([9, 9]), "style": torch.tensor([4, 0])})
    assert cond.class_label.tolist() == [4, 0]
    assert cond.source.keys() == {"style"}
    other = LabelConditioner(5, dim=7, column="style")
    dropped = other(cond.drop(torch.tensor([True, False])).source)
    assert torch.equal(dropped.vector, other.embedding.weight[[5, 0]]), "what was dropped is dropped in another model"
    assert torch.equal(other(cond.drop().source).vector, other.embedding.weight[[5, 5]])


def test_a_negative_is_the_condition_of_another_batch() -> None:
    conditioner = LabelConditioner(3, dim=5)
    cond = conditioner({"label": torch.tensor([2, 0])})
    led = conditioner.negative(cond, {"label": torch.tensor([1, 1])})
    assert led.vector is cond.vector
    assert torch.equal(led.drop().vector, conditioner.embedding.weight[[1, 1]])
    assert led.drop().source["label"].tolist() == [1, 1]


def test_the_null_condition_needs_no_batch() -> None:
    conditioner = LabelConditioner(3, dim=5)
    assert torch.equal(conditioner.empty(2).vector, conditioner.embedding.weight[[3, 3]])
    assert NoConditioner().empty(2).is_empty


def test_identity_is_one() -> None:
    image = torch.randn(2, 3, 4, 4)
    autoencoder = IdentityAutoencoder(channels=3, resolution=4)
    assert autoencoder.encode(image) is image
    assert autoencoder.decode(image) is image
