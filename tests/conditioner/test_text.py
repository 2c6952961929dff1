"""Texts as conditions, alone and joined to labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from diffusion.conditioner.joined import JoinedConditioner
from diffusion.conditioner.label import LabelConditioner
from diffusion.conditioner.text import TextConditioner
from diffusion.experiment.build.build import build, build_module
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.randomness import SAMPLING, TRAINING, KeyedRandomness
from diffusion.sampler.ddim import DDIMSampler
from diffusion.text_encoder.words import WordsTextEncoder
from diffusion.types import Cond

TEXTS = ["a red heart", "two hearts", ""]


def words(**settings: int) -> WordsTextEncoder:
    return WordsTextEncoder(**{"dim": 8, "pooled_dim": 6, "depth": 1, "heads": 2, "length": 5} | settings)


def text(**settings: object) -> TextConditioner:
    return TextConditioner(words(), **{"dim": 6, "token_dim": 8} | settings).eval()


def joined(**settings: object) -> JoinedConditioner:
    torch.manual_seed(0)
    parts = {"text": text(drop=0.5), "label": LabelConditioner(4, dim=6, drop=0.2)}
    return JoinedConditioner(parts, **{"dim": 6, "token_dim": 8} | settings).eval()


def batch() -> dict[str, object]:
    return {"text": TEXTS, "label": torch.tensor([0, 3, 1])}


def test_tokens_vector_and_null_come_from_the_encoder() -> None:
    conditioner = text()
    cond = conditioner(batch())
    tokens, mask, pooled = conditioner.encoder(TEXTS)
    torch.testing.assert_close(cond.tokens, tokens)
    torch.testing.assert_close(cond.vector, pooled)
    assert torch.equal(cond.mask, mask)
    null = cond.drop()
    for slot in ("tokens", "vector", "mask"):
        assert torch.equal(getattr(null, slot)[0], getattr(cond, slot)[2]), "the null is the empty text"
        torch.testing.assert_close(getattr(null, slot), getattr(conditioner.empty(3), slot))
    assert cond.source == {"text": TEXTS}


def test_a_learned_null_is_trained_by_dropped_texts_only() -> None:
    conditioner = text(null="learned")
    cond = conditioner(batch())
    assert cond.null.mask.sum(1).tolist() == [1, 1, 1]
    dropped = cond.drop(torch.tensor([True, False, False]))
    (dropped.tokens.sum() + dropped.vector.sum()).backward()
    assert conditioner.null_token.grad.eq(1).all()
    assert conditioner.null_vector.grad.eq(1).all()


def test_a_negative_text_replaces_the_null() -> None:
    conditioner = text()
    cond = conditioner.negative(conditioner(batch()), {"text": ["blue"] * 3})
    torch.testing.assert_close(cond.drop().vector, conditioner.encoder(["blue"] * 3).pooled)


def test_parts_are_joined_and_removed_by_name() -> None:
    conditioner = joined()
    cond = conditioner(batch())
    label = conditioner.parts["label"].embedding.weight
    pooled = conditioner.parts["text"].encoder(["", *TEXTS]).pooled
    torch.testing.assert_close(cond.vector, pooled[1:] + label[[0, 3, 1]])
    torch.testing.assert_close(cond.without("text").vector, pooled[:1] + label[[0, 3, 1]])
    torch.testing.assert_close(cond.without("label").vector, pooled[1:] + label[4])
    torch.testing.assert_close(cond.drop().vector, (pooled[:1] + label[4]).expand(3, -1))
    torch.testing.assert_close(conditioner.empty(3).vector, cond.drop().vector)
    assert conditioner.columns == ("text", "label")
    assert cond.source == batch() | {"label": cond.source["label"]}


def test_a_negative_reaches_the_parts_whose_columns_it_has() -> None:
    conditioner = joined()
    cond = conditioner.negative(conditioner(batch()), {"text": ["blue"] * 3})
    blue = conditioner.parts["text"].encoder(["blue"]).pooled
    label = conditioner.parts["label"].embedding.weight
    torch.testing.assert_close(cond.drop().vector, (blue + label[4]).expand(3, -1))
    torch.testing.assert_close(cond.without("text").vector, blue + label[[0, 3, 1]])
    assert cond.drop().source["text"] == ["blue"] * 3
    with pytest.raises(ValueError, match="LabelConditioner reads label; use a model with that condition"):
        LabelConditioner(4, dim=6).negative(Cond(), {"text": ["blue"]})


def test_what_was_dropped_part_by_part_is_dropped_in_another_model() -> None:
    first, second = joined(), joined()
    where = torch.tensor([True, False, True])
    cond = first(batch()).without("text", where)
    again = second(cond.source)
    torch.testing.assert_close(again.vector, second(batch()).without("text", where).vector)
    assert torch.equal(again.source["dropped.text"], where)
    all_gone = second(first(batch()).drop(where).source)
    torch.testing.assert_close(all_gone.vector, second(batch()).drop(where).vector)


def test_each_part_is_dropped_by_draws_of_its_own() -> None:
    """Probabilities 0.5 and 0.2, independent, the same for any split of a batch."""
    conditioner, n = joined(), 4000
    cond = conditioner({"text": ["heart"] * n, "label": torch.ones(n, dtype=torch.int64)})

    def source(rows: range, cond: Cond) -> dict[str, Tensor]:
        random = KeyedRandomness(rows, seed=0, stream=TRAINING)
        return conditioner.drop_parts(cond, random).source

    marks = source(range(n), cond)
    gone = torch.stack((marks["dropped.text"], marks["dropped.label"])).double()
    torch.testing.assert_close(gone.mean(1), torch.tensor([0.5, 0.2], dtype=torch.float64), atol=0.03, rtol=0)
    assert abs(float(torch.corrcoef(gone)[0, 1])) < 0.05
    half = source(range(n // 2, n), cond.select(torch.arange(n // 2, n)))
    assert torch.equal(half["dropped.text"], marks["dropped.text"][n // 2 :])
    assert torch.equal(half["dropped.label"], marks["dropped.label"][n // 2 :])
    everything = joined(drop=1.0).drop_parts(cond, KeyedRandomness(range(n), seed=0, stream=TRAINING))
    assert torch.equal(everything.vector, cond.drop().vector)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: text(dim=5), r"conditioner\.dim is text_encoder\.pooled_dim, 6, got 5"),
        (lambda: text(token_dim=5), r"conditioner\.token_dim is text_encoder\.dim, 8, or 0, got 5"),
        (lambda: TextConditioner(words(pooled_dim=0), dim=0), "nothing of a text is read"),
        (lambda: text(null="zero"), "empty, zeros or learned"),
        (lambda: text(null="learned", drop=0.0), r"set conditioner\.drop above 0"),
        (lambda: text(drop=2.0), "probability"),
        (lambda: text()({"text": torch.zeros(2)}), "column 'text' has numbers"),
        (lambda: text()({"label": torch.zeros(2)}), r'TextConditioner reads batch\["text"\], .* \(it has label\)'),
        (lambda: joined(dim=7), r"set conditioner\.dim=6"),
        (lambda: joined(token_dim=0), r"set conditioner\.token_dim=8"),
        (lambda: joined(image_channels=3), r"set conditioner\.image_channels=0"),
        (lambda: joined(vectors="sum"), "add or concat"),
        (lambda: joined(vectors="concat"), r"set conditioner\.dim=12"),
        (lambda: JoinedConditioner({}), r"give conditioner\.parts"),
        (lambda: JoinedConditioner({"type": text()}, dim=6, token_dim=8), "cannot have the name 'type'"),
        (
            lambda: JoinedConditioner({"a": LabelConditioner(2, 4), "b": LabelConditioner(2, 5)}, dim=4),
            "vectors=concat",
        ),
    ],
)
def test_what_cannot_be_a_condition_is_refused(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def images(root: Path) -> None:
    """16 squares, half of them dark, with a class, a caption and a style."""
    rows = []
    for i in range(16):
        Image.fromarray(np.full((8, 8), 40 if i % 2 else 210, np.uint8)).save(root / f"{i:02}.png")
        caption = "a dark square" if i % 2 else "a bright square"
        rows.append({"file_name": f"{i:02}.png", "kind": i % 2, "caption": caption, "style": i % 3, "set": "one"})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.slow
def test_joined_conditions_train_from_named_columns_of_a_folder(
    train_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Sixty steps on dark and bright squares: what is drawn follows the text, with guidance for each part."""
    root = tmp_path / "images"
    root.mkdir()
    images(root)
    cfg = train_config(
        "data=image_folder",
        f"data.root={root}",
        "data.channels=1",
        "data.resolution=8",
        "data.num_classes=2",
        "data.label=kind",
        "data.text=caption",
        "data.batch_size=8",
        "data.test_fraction=0.3",
        "conditioner=joined",
        "text_encoder.dim=32",
        "text_encoder.depth=1",
        "text_encoder.pooled_dim=128",
        "network=unet_tiny",
        "optimizer.lr=0.003",
    )
    module, data = build_module(cfg), build(cfg.data)
    data.setup()
    split = data.split("train")
    assert split.columns.keys() == {"label", "text", "style", "set"}
    optimizer = torch.optim.Adam(module.model.parameters(), 3e-3)
    rows = torch.arange(len(split))
    for step in range(60):
        random = KeyedRandomness(rows, seed=0, stream=TRAINING, step=step)
        loss = module.loss(split.batch(rows), random).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        cond = module.model.condition({"label": torch.tensor([1, 0]), "text": ["a dark square", "a bright square"]})
        noise = KeyedRandomness([0, 1], seed=0, stream=SAMPLING).randn_like(torch.empty(2, 1, 8, 8))
        guided = ClassifierFreeGuidance(module.model.denoiser, {"text": 1.5, "label": 1.2})
        dark, bright = DDIMSampler(20)(guided, noise, cond).mean((1, 2, 3)).tolist()
    assert dark < -0.2 < 0.2 < bright
