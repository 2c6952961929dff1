"""SDXL's encoders as one: what lies where, and refusals; against diffusers in tests/pretrained."""

import pytest
import torch

from diffusion.text_encoder.sdxl import SDXLTextEncoder
from diffusion.text_encoder.words import WordsTextEncoder


def words(dim, pooled_dim, length=6):
    return WordsTextEncoder(dim=dim, pooled_dim=pooled_dim, depth=1, heads=1, length=length, vocabulary=64).eval()


@torch.no_grad()
def test_the_towers_lie_beside_each_other_and_the_vector_is_the_seconds():
    first, second, texts = words(8, 4), words(12, 6), ["a red heart", ""]
    out, a, b = SDXLTextEncoder(first, second, 20, 6)(texts), first(texts), second(texts)
    assert torch.equal(out.tokens, torch.cat((a.tokens, b.tokens), dim=2))
    assert torch.equal(out.pooled, b.pooled)
    assert torch.equal(out.mask, a.mask | b.mask)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dim": 12}, "dim is that of both towers, 20, got 12"),
        ({"pooled_dim": 4}, "pooled_dim is clip_g's, 6, got 4"),
        ({"clip_g": words(12, 6, 7)}, "both towers have one length, got 6 and 7 tokens"),
    ],
)
def test_refuses_sizes_that_are_not_the_encoders(settings, sentence):
    keys = {"clip_l": words(8, 4), "clip_g": words(12, 6), "dim": 20, "pooled_dim": 6}
    with pytest.raises(ValueError, match=sentence):
        SDXLTextEncoder(**keys | settings)
