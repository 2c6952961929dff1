"""References: another image of the same style, drawn by key."""

from __future__ import annotations

import pytest
import torch

from diffusion.data.emoji import Emoji
from diffusion.data.loader import StatefulLoader
from diffusion.data.references import References
from diffusion.errors import DataError

STYLES = torch.tensor([0, 1, 0, 2, 1, 0, 2, 0])


def references() -> References:
    images = torch.arange(len(STYLES), dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return References(images, STYLES)


def test_a_reference_is_another_image_of_the_style_and_all_are_equally_likely() -> None:
    rows, epochs = torch.arange(len(STYLES)), 3000
    drawn = torch.stack([references().drawn(rows, 0, epoch) for epoch in range(epochs)])
    assert (STYLES[drawn] == STYLES).all()
    assert (drawn != rows).all()
    for row in rows.tolist():
        others = ((STYLES[row] == STYLES) & (rows != row)).nonzero().flatten()
        share = drawn[:, row].bincount(minlength=len(STYLES))[others] / epochs
        p = 1 / len(others)
        assert (share - p).abs().max() <= 5 * (p * (1 - p) / epochs) ** 0.5, "five standard errors of a uniform draw"


def test_a_draw_belongs_to_its_image_epoch_and_seed() -> None:
    rows = torch.arange(len(STYLES)).repeat(50)
    whole = references().drawn(rows, 3, 7)
    assert torch.equal(references().drawn(rows[5:6], 3, 7), whole[5:6])
    assert torch.equal(references().draw(rows, 3, 7)[:, 0, 0, 0], whole / 127.5 - 1)
    for seed, epoch in ((4, 7), (3, 8)):
        assert not torch.equal(references().drawn(rows, seed, epoch), whole)


def test_a_style_of_one_image_is_refused() -> None:
    with pytest.raises(DataError, match=r"one image; set data\.references=false"):
        References(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1]))


def test_batches_of_emoji_hold_them_on_any_ranks_and_after_a_resume() -> None:
    data = Emoji(references=True, held_out="pairs", batch_size=8)
    split, test = data.split("train"), data.split("test")
    assert split.sha256 != Emoji(held_out="pairs").split("train").sha256
    loader = StatefulLoader(split, 8, seed=1)
    whole = iter(loader)
    first, second = next(whole), next(whole)
    parts = [next(iter(StatefulLoader(split, 8, seed=1, rank=rank, world_size=2))) for rank in (0, 1)]
    assert torch.equal(torch.cat([part["reference"] for part in parts]), first["reference"])
    resumed = StatefulLoader(split, 8, seed=1)
    resumed.load_state_dict({**loader.state_dict(), "delivered": 1})
    assert torch.equal(next(iter(resumed))["reference"], second["reference"])
    assert split.references is not None
    due = split.references.drawn(first["index"], 1, 0)
    assert torch.equal(first["reference"], split.batch(due)["image"])
    assert torch.equal(split.more["style"][due], first["style"])
    assert not (split.more["concept"][due] == first["concept"]).any()
    assert len(test) == 97, "those of the 137 pairs whose style is embedded"
    held_out = test.batch(torch.arange(97))
    assert torch.equal(held_out["reference"], test.batch(torch.arange(97))["reference"]), "always the same"
    assert torch.equal(test.requests_for(["reference"])["reference"].rows(torch.arange(5)), held_out["reference"][:5])
