"""Stable Diffusion 3's encoders as one: what lies where, and refusals; against diffusers in tests/pretrained."""

import pytest
import torch

from diffusion.text_encoder.sd3 import SD3TextEncoder
from diffusion.text_encoder.words import WordsTextEncoder


def words(dim, pooled_dim, length):
    return WordsTextEncoder(dim=dim, pooled_dim=pooled_dim, depth=1, heads=1, length=length, vocabulary=64).eval()


@torch.no_grad()
def test_the_towers_lie_beside_each_other_and_before_t5():
    first, second, third = words(8, 4, 6), words(12, 8, 6), words(24, 0, 5)
    texts = ["a red heart", ""]
    for t5 in (third, None):
        out = SD3TextEncoder(first, second, t5, dim=24, pooled_dim=12, t5_length=5)(texts)
        a, b, c = first(texts), second(texts), third(texts)
        assert out.tokens.shape == (2, 11, 24)
        assert torch.equal(out.tokens[:, :6, :8], a.tokens)
        assert torch.equal(out.tokens[:, :6, 8:20], b.tokens)
        assert not out.tokens[:, :6, 20:].any()
        assert torch.equal(out.tokens[:, 6:], c.tokens if t5 else torch.zeros(2, 5, 24))
        assert torch.equal(out.mask[:, 6:], c.mask if t5 else torch.ones(2, 5).bool())
        assert torch.equal(out.pooled, torch.cat((a.pooled, b.pooled), dim=1))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pooled_dim": 8}, "pooled_dim is that of both towers, 12, got 8"),
        ({"dim": 16}, "at least 20"),
        ({"dim": 32}, "dim is T5's"),
        ({"t5_length": 7}, "T5 has text_encoder.t5_length"),
        ({"clip_g": words(12, 8, 7)}, "both towers have one length"),
    ],
)
def test_refuses_sizes_that_are_not_the_encoders(settings, sentence):
    keys = {"clip_l": words(8, 4, 6), "clip_g": words(12, 8, 6), "t5": words(24, 0, 5)}
    with pytest.raises(ValueError, match=sentence):
        SD3TextEncoder(**keys | {"dim": 24, "pooled_dim": 12, "t5_length": 5} | settings)
