"""Prompts of several parts: what people write, and the mean of their encodings."""

from __future__ import annotations

import pytest
import torch

from diffusion.conditioner.text import TextConditioner
from diffusion.text_encoder.parts import split
from diffusion.text_encoder.words import WordsTextEncoder


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("hot dog", [("hot dog", 1)]),
        ("hot:: dog", [("hot", 1), ("dog", 1)]),
        ("hot:: dog::2", [("hot", 1), ("dog", 2)]),
        ("hot::2 dog", [("hot", 2), ("dog", 1)]),
        ("hot::1.5 dog::.5", [("hot", 1.5), ("dog", 0.5)]),
        ("tulips:: red::-.5", [("tulips", 1), ("red", -0.5)]),
        ("hot:: 2 dogs", [("hot", 1), ("2 dogs", 1)]),
        ("a (red:1.3) heart:: dog::", [("a (red:1.3) heart", 1), ("dog", 1)]),
        ("space : ship", [("space : ship", 1)]),
        ("", [("", 1)]),
    ],
)
def test_parts_as_people_write_them(prompt: str, parts: list[tuple[str, float]]) -> None:
    assert split(prompt) == parts


@pytest.mark.parametrize("prompt", ["hot::0", "hot:: dog::-1", "::"])
def test_weights_of_nothing_are_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="above 0 is due; give a part more weight"):
        split(prompt)


def conditioner(**settings: object) -> TextConditioner:
    torch.manual_seed(0)
    return TextConditioner(WordsTextEncoder(8, 6, 1, 2, 5), dim=6, token_dim=8, **settings).eval()


@torch.no_grad()
def test_an_encoding_is_the_mean_of_the_parts() -> None:
    plain, parted = conditioner(), conditioner(prompt_parts=True)
    hot, dog, whole = (plain({"text": [text]}) for text in ("hot", "a dog", "a red heart"))
    cond = parted({"text": ["hot:: a dog::2", "a red heart", "hot::3 a dog::-1"]})
    for slot in ("tokens", "vector"):
        of = lambda cond, slot=slot: getattr(cond, slot)[0]  # noqa: E731
        torch.testing.assert_close(getattr(cond, slot)[0], (of(hot) + 2 * of(dog)) / 3)
        assert torch.equal(getattr(cond, slot)[1], of(whole)), "one part is as it was"
        torch.testing.assert_close(getattr(cond, slot)[2], (3 * of(hot) - of(dog)) / 2)
    assert torch.equal(cond.mask[0], hot.mask[0] | dog.mask[0])
    assert cond.null is not None
    assert torch.equal(cond.null.tokens, plain({"text": ["a"] * 3}).null.tokens)
    both = conditioner(prompt_parts=True, prompt_weights=True)({"text": ["a (red:1.5) heart:: a red heart::0"]})
    weighed = conditioner(prompt_weights=True)({"text": ["a (red:1.5) heart"]})
    torch.testing.assert_close(both.tokens, weighed.tokens)
