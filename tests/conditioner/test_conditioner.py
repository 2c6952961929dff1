"""Conditioners: what a batch says of its images."""

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
        (None, 'reads batch\\["label"\\]'),
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


def test_identity_is_one() -> None:
    image = torch.randn(2, 3, 4, 4)
    autoencoder = IdentityAutoencoder(channels=3, resolution=4)
    assert autoencoder.encode(image) is image
    assert autoencoder.decode(image) is image
