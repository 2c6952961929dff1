"""The word encoder that is trained with its model."""

from __future__ import annotations

import copy
import logging

import pytest
import torch

from diffusion.text_encoder.words import WordsTextEncoder


def words(**settings: int) -> WordsTextEncoder:
    torch.manual_seed(0)
    return WordsTextEncoder(**{"dim": 8, "pooled_dim": 6, "depth": 2, "heads": 2, "length": 6} | settings)


def test_a_text_is_encoded_alike_in_any_company() -> None:
    encoder = words().double()
    texts = ["a red heart", "", "two, hearts!"]
    together = encoder(texts)
    for i, text in enumerate(texts):
        alone = encoder([text])
        torch.testing.assert_close(alone.tokens[0], together.tokens[i])
        torch.testing.assert_close(alone.pooled[0], together.pooled[i])
    assert together.mask.sum(1).tolist() == [4, 1, 5]
    assert not together.tokens[~together.mask].any()


def test_padding_does_not_change_a_text() -> None:
    """The same weights with room for more tokens give the same tokens."""
    short, long = words(length=6).double(), words(length=20).double()
    long.load_state_dict({**short.state_dict(), "places": long.places.data})
    long.places.data[:6] = short.places.data
    a, b = short(["a red heart"]), long(["a red heart"])
    torch.testing.assert_close(b.tokens[:, :6], a.tokens)
    torch.testing.assert_close(b.pooled, a.pooled)


def test_case_and_spaces_do_not_count_and_order_does() -> None:
    encoder = words()
    assert torch.equal(encoder(["A  Red heart"]).tokens, encoder(["a red HEART"]).tokens)
    assert not torch.allclose(encoder(["red heart"]).pooled, encoder(["heart red"]).pooled)
    assert not torch.allclose(encoder(["red heart"]).pooled, encoder(["red star"]).pooled)


def test_every_parameter_learns() -> None:
    encoder = words()
    out = encoder(["one two three four five"])
    (out.tokens * torch.randn_like(out.tokens)).sum().add((out.pooled * torch.randn_like(out.pooled)).sum()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_what_is_cut_off_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    encoder = words()
    with caplog.at_level(logging.WARNING):
        encoder(["one two three four five six, seven"])
        copy.deepcopy(encoder)(["one two three four five six, seven"])
        encoder(["one two three four five"])
    (record,) = caplog.records
    assert "text_encoder.length=6 cuts off 'six, seven'" in record.getMessage()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dim": 0}, "dim is at least 1"),
        ({"pooled_dim": -1}, "pooled_dim is at least 0"),
        ({"length": 1}, "length is at least 2"),
        ({"heads": 3}, "cannot be shared by 3 heads"),
        ({"depth": 0}, "at least 1, got 0"),
    ],
)
def test_bad_sizes_are_refused(settings: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        words(**settings)
