"""A condition: its numbers, its parts, and the columns that it was made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from diffusion.types import Cond

FIRST = torch.tensor([True, False])


def numbers(**values: float) -> dict[str, Tensor]:
    return {name: torch.full((2,), value) for name, value in values.items()}


def test_settings_of_objective_and_sampler_survive_what_removes_the_condition() -> None:
    null = Cond(vector=torch.zeros(2, 3), numbers=numbers(size=0.0))
    cond = Cond(vector=torch.ones(2, 3), numbers=numbers(size=64.0, to=0.5, guidance=7.5), null=null)
    dropped = cond.drop()
    assert {name: value.tolist() for name, value in dropped.numbers.items()} == {
        "size": [0, 0],
        "to": [0.5, 0.5],
        "guidance": [7.5, 7.5],
    }
    some = cond.drop(FIRST)
    assert some.numbers["size"].tolist() == [0, 64]
    assert some.numbers["to"].tolist() == [0.5, 0.5]
    assert some.vector[:, 0].tolist() == [0, 1]


def test_settings_are_no_condition() -> None:
    settings = Cond(numbers=numbers(to=0.5, guidance=2.0))
    assert settings.is_empty
    assert settings.drop() is settings
    assert not Cond(numbers=numbers(size=64.0)).is_empty
    with pytest.raises(ValueError, match="no null counterpart"):
        Cond(numbers=numbers(size=64.0)).drop()


def test_map_and_cat_hold_numbers() -> None:
    cond = Cond(numbers={"size": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, null=Cond(numbers=numbers(size=0.0)))
    assert cond.map(lambda v: v[1:]).numbers["size"].tolist() == [[3, 4]]
    assert cond.map(lambda v: v[1:]).null.numbers["size"].tolist() == [0]
    assert Cond.cat(cond, cond).numbers["size"].shape == (4, 2)
    with pytest.raises(ValueError, match="'to' is filled in one of them only"):
        Cond.cat(cond, replace(cond, numbers={**cond.numbers, **numbers(to=1.0)}))


def test_parts_join_slot_by_slot() -> None:
    words = Cond(vector=torch.ones(2, 3), tokens=torch.ones(2, 4, 5), mask=torch.ones(2, 4, dtype=torch.bool))
    style = Cond(vector=torch.full((2, 3), 2.0), tokens=torch.zeros(2, 1, 5), class_label=torch.tensor([0, 1]))
    low = Cond(image=torch.zeros(2, 3, 8, 8), numbers=numbers(noise=0.1))
    joined = Cond.join({"words": words, "style": style, "low": low})
    assert torch.equal(joined.vector, torch.full((2, 3), 3.0))
    assert Cond.join({"words": words, "style": style}, concat=True).vector.shape == (2, 6)
    assert joined.tokens.shape == (2, 5, 5)
    assert joined.mask.all()
    assert joined.mask.shape == (2, 5)
    assert torch.equal(joined.image, low.image)
    assert joined.class_label.tolist() == [0, 1]
    assert joined.numbers.keys() == {"noise"}
    assert joined.null is None


def test_parts_that_do_not_fit_are_refused() -> None:
    one, two = Cond(vector=torch.ones(2, 3)), Cond(vector=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"conditioner\.vectors=concat"):
        Cond.join({"one": one, "two": two})
    with pytest.raises(ValueError, match="same number"):
        Cond.join({"one": Cond(numbers=numbers(size=1.0)), "two": Cond(numbers=numbers(size=2.0))})


def two_parts() -> Cond:
    parts = {
        name: Cond(vector=torch.full((2, 1), value), null=Cond(vector=torch.zeros(2, 1)))
        for name, value in (("text", 1.0), ("label", 10.0))
    }
    fixed = Cond(image=torch.ones(2, 1, 4, 4))
    joined = Cond.join({**parts, "low": fixed})
    return replace(joined, source={"text": ["a", "b"], "label": torch.tensor([3, 4])})


def test_one_part_is_removed_and_the_others_stay() -> None:
    cond = replace(two_parts(), numbers=numbers(to=0.5), augment_labels=torch.ones(2, 9))
    assert cond.vector.flatten().tolist() == [11, 11]
    assert cond.without("text").vector.flatten().tolist() == [10, 10]
    assert cond.without("label").vector.flatten().tolist() == [1, 1]
    nothing = cond.without("text").without("label")
    assert torch.equal(nothing.vector, cond.drop().vector)
    assert cond.without("text", FIRST).vector.flatten().tolist() == [10, 11]
    assert cond.drop(FIRST).vector.flatten().tolist() == [0, 11]
    assert cond.drop(FIRST).without("label").vector.flatten().tolist() == [0, 1]
    for changed in (nothing, cond.drop(FIRST), cond.without("text")):
        assert torch.equal(changed.image, cond.image), "a part without a null stays"
        assert changed.numbers["to"].tolist() == [0.5, 0.5]
        assert changed.augment_labels is cond.augment_labels
    with pytest.raises(ValueError, match="no part 'style'"):
        cond.without("style")
    with pytest.raises(ValueError, match="no null, so it cannot be removed"):
        cond.without("low")


def test_mapping_reaches_parts() -> None:
    half = two_parts().map(lambda v: v[:1])
    assert half.without("text").vector.tolist() == [[10]]
    assert half.drop().vector.tolist() == [[0]]


def test_the_source_follows_selection_and_marks_what_was_dropped() -> None:
    cond = two_parts()
    picked = cond.select(torch.tensor([1, 1, 0]))
    assert picked.source["text"] == ["b", "b", "a"]
    assert picked.source["label"].tolist() == [4, 4, 3]
    assert picked.vector.shape == (3, 1)
    assert cond.map(lambda v: v[:1]).source is None, "a function of tensors cannot take samples from lists"
    assert cond.drop().source["dropped"].tolist() == [True, True]
    assert cond.drop(FIRST).source["dropped"].tolist() == [True, False]
    assert cond.without("text").source["dropped.text"].tolist() == [True, True]
    joint = Cond.cat(cond, cond.without("text"))
    assert joint.source["text"] == ["a", "b", "a", "b"]
    assert joint.source["dropped.text"].tolist() == [False, False, True, True]
    assert Cond.cat(cond, replace(cond, source=None)).source is None
