"""Weights in prompts: what people write, and what becomes of the tokens."""

import pytest
import torch

from diffusion.conditioner.text import TextConditioner
from diffusion.text_encoder.base import Encoded, TextEncoder
from diffusion.text_encoder.weights import parse
from diffusion.text_encoder.words import WordsTextEncoder


@pytest.mark.parametrize(
    ("prompt", "text", "weights"),
    [
        ("a heart", "a heart", {}),
        ("a (red:1.3) heart", "a red heart", {"red": 1.3}),
        ("a (red) heart", "a red heart", {"red": 1.1}),
        ("a ((red)) heart", "a red heart", {"red": 1.21}),
        ("a [red] heart", "a red heart", {"red": 1 / 1.1}),
        ("(a (red:2):0.5) heart", "a red heart", {"a": 0.5, "red": 1.0}),
        ("a (red:.5) heart", "a red heart", {"red": 0.5}),
        (r"a \(red\) heart", "a (red) heart", {}),
        ("a (red heart", "a (red heart", {}),
        ("a) red] heart:1.3)", "a) red] heart:1.3)", {}),
        ("", "", {}),
    ],
)
def test_weights_as_people_write_them(prompt: str, text: str, weights: dict[str, float]) -> None:
    found = parse(prompt)
    assert found.text == text
    assert len(found.weights) == len(text)
    for word in text.replace("(", " ").replace(")", " ").split():
        place = text.index(word)
        assert found.weights[place : place + len(word)] == pytest.approx([weights.get(word, 1.0)] * len(word))


def conditioner(**settings: object) -> TextConditioner:
    torch.manual_seed(0)
    return TextConditioner(WordsTextEncoder(8, 0, 1, 2, 5), token_dim=8, **settings).eval()


def test_a_token_is_scaled_by_its_weight_and_the_whole_keeps_its_size() -> None:
    plain, weighted = conditioner(), conditioner(prompt_weights=True)
    expected = plain({"text": ["a red heart", "a heart"]})
    cond = weighted({"text": ["a (red:1.5) heart", "a heart"]})
    assert torch.equal(cond.tokens[1], expected.tokens[1])
    assert torch.equal(cond.mask, expected.mask)
    ratio = cond.tokens[0, :4] / expected.tokens[0, :4]
    torch.testing.assert_close(ratio / ratio[0, 0], torch.tensor([1, 1, 1.5, 1])[:, None].expand(4, 8))
    torch.testing.assert_close(cond.tokens[0].norm(), expected.tokens[0].norm())
    torch.testing.assert_close(weighted({"text": ["(red:2) heart"]}).drop().tokens, expected.drop().tokens[:1])


def test_without_the_option_brackets_are_words() -> None:
    plain = conditioner()
    assert not torch.equal(plain({"text": ["(red:1.5)"]}).tokens, plain({"text": ["red"]}).tokens)


def test_an_encoder_without_places_says_so() -> None:
    class Blind(TextEncoder):
        def forward(self, texts):  # type: ignore[no-untyped-def]
            zeros = torch.zeros(len(texts), self.length, self.dim)
            return Encoded(zeros, zeros[..., 0].bool(), None)

    with pytest.raises(ValueError, match=r"set conditioner\.prompt_weights=false"):
        TextConditioner(Blind(8, 0, 4), token_dim=8, prompt_weights=True)({"text": ["(a:2)"]})
