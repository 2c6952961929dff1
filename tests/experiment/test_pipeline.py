"""scripts/sample.py and evaluate.py with several runs that draw together, and stages that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_folders import stages
from scripts_in_process import run_script
from test_settings import script

import diffusion
from diffusion.pipeline.base import Request
from diffusion.pipeline.cascade import CascadePipeline
from diffusion.pipeline.refine import RefinePipeline
from diffusion.pipeline.unclip import UnclipPipeline

TEXTS = ["a cat", "a dog", "two", "three"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return stages(tmp_path_factory.mktemp("runs"))


def stage(runs: dict[str, str], name: str, batch_size: int = 4, **options: Any):
    return diffusion.load(runs[name], weights="raw").pipeline(batch_size=batch_size, **options)


def unclip(runs: dict[str, str], **settings: Any) -> UnclipPipeline:
    return UnclipPipeline(
        stage(runs, "prior"), stage(runs, "decoder"), {"x2": stage(runs, "large")}, batch_size=4, **settings
    )


def test_a_cascade_enlarges_what_the_base_draws_alone(runs: dict[str, str]) -> None:
    base, large = stage(runs, "base"), stage(runs, "large")
    pipeline = CascadePipeline(base, {"x2": large}, batch_size=4)
    index = torch.arange(4)
    small = stage(runs, "base").images(index, 7, Request(label=index % 10)).clamp(-1, 1)
    due = large.images(index, pipeline.seed_of("upsamplers.x2", 7), Request(low_resolution=small))
    torch.testing.assert_close(pipeline.images(index, 7), due)
    assert pipeline.draw(index, 7).shape == (4, 1, 16, 16)
    assert torch.equal(CascadePipeline(base, {}, batch_size=4).draw(index, 7), stage(runs, "base").draw(index, 7))


def test_columns_reach_the_stages_that_read_them(runs: dict[str, str]) -> None:
    """As an evaluation gives prompts and negative ones; the upsampler reads neither."""
    told, asked, index = unclip(runs), unclip(runs), torch.arange(4)
    told.columns.update(text=tuple(TEXTS), negative=("a bird",))
    due = asked.draw(index, 3, Request(text=TEXTS, negative=["a bird"] * 4))
    assert torch.equal(told.draw(index, 3), due)


def test_numbers_that_no_stage_reads_are_refused(runs: dict[str, str]) -> None:
    request = Request(text=TEXTS, numbers={"size": torch.ones(4, 2)})
    with pytest.raises(ValueError, match="numbers has size, and these stages read none"):
        unclip(runs).check(request)


def test_a_sample_depends_on_its_number_and_its_request_only(runs: dict[str, str]) -> None:
    pipeline = unclip(runs)
    request = Request(text=TEXTS)
    whole = pipeline.draw(torch.arange(4), 3, request)
    assert pipeline.calls == 4 * (2 * 2 + 2 + 2), "two candidates, the decoder and the upsampler, two steps each"
    alone = pipeline.draw(torch.tensor([2]), 3, Request(text=[TEXTS[2]]))
    assert torch.equal(alone[0], whole[2])
    assert not torch.equal(pipeline.draw(torch.arange(4), 4, request), whole)
    two = torch.tensor([2])
    same, other = (pipeline.embeddings(two, 3, Request(text=[text])) for text in (TEXTS[2], "another"))
    assert not torch.equal(same, other)


def test_the_best_candidate_has_the_largest_product_with_the_text(runs: dict[str, str]) -> None:
    pipeline, index, request = unclip(runs, candidates=3), torch.arange(4), Request(text=TEXTS)
    own = [pipeline.prior.images(index, pipeline.seed_of(f"prior.{n}", 5), request) for n in range(3)]
    text = pipeline.prior.model.conditioner.encoder(TEXTS).pooled
    products = torch.stack([(z * text).sum(1) for z in own])
    best = pipeline.embeddings(index, 5, request)
    torch.testing.assert_close((best * text).sum(1), products.amax(0))
    given = torch.randn(4, 6)
    assert pipeline.embeddings(index, 5, Request(text=TEXTS, image_embedding=given)) is given


def test_the_decoder_is_given_the_texts_embedding_or_none(runs: dict[str, str]) -> None:
    """As the decoder's own run draws with that embedding, or with the part at its null."""
    index, request = torch.arange(4), Request(text=TEXTS)
    pipeline = unclip(runs, embedding="text")
    texts = pipeline._text().encoder(TEXTS).pooled
    due = unclip(runs).draw(index, 5, Request(text=TEXTS, image_embedding=texts))
    assert torch.equal(pipeline.draw(index, 5, request), due)
    assert pipeline.describe()["pipeline"]["embedding"] == "text"
    decoder = stage(runs, "decoder")
    alone, own = unclip(runs, embedding="none"), decoder.cond(index, 5, Request(text=TEXTS, image_embedding=texts))
    found = alone.decoder.cond(index, 5, Request(text=TEXTS, image_embedding=texts))
    assert torch.equal(found.vector, own.without("image").vector)
    assert torch.equal(found.tokens, own.without("image").tokens)
    assert torch.equal(alone.draw(index, 5, request), alone.draw(index, 5, Request(text=TEXTS, image_embedding=texts)))
    calls = alone.calls
    alone.draw(index, 5, request)
    assert alone.calls - calls == 4 * (2 + 2), "the prior is not asked"
    with pytest.raises(ValueError, match=r"pipeline.embedding is prior, text or none, got 'captions'"):
        unclip(runs, embedding="captions")


def test_a_refiner_that_is_the_base_changes_nothing(runs: dict[str, str]) -> None:
    """A deterministic sampler handed over at one of its own levels goes on as if nothing were."""
    base = stage(runs, "base")
    level = base.sampler.levels(base.model.schedule)[1]
    pipeline = RefinePipeline(base, stage(runs, "base"), time=level.t, batch_size=4)
    index = torch.arange(4)
    torch.testing.assert_close(pipeline.images(index, 1), stage(runs, "base").images(index, 1), rtol=1e-4, atol=1e-4)
    apart = RefinePipeline(stage(runs, "base"), stage(runs, "other"), time=0.3, batch_size=4)
    assert torch.isfinite(apart.images(index, 1)).all()


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda r: CascadePipeline(stage(r, "base"), {"a": stage(r, "huge")}), "enlarges 16 x 16 pixels"),
        (
            lambda r: CascadePipeline(stage(r, "base"), {"a": stage(r, "other")}),
            "upsamplers.a enlarges nothing",
        ),
        (lambda r: CascadePipeline(stage(r, "prior"), {}), "draws embeddings and no images"),
        (lambda r: UnclipPipeline(stage(r, "base"), stage(r, "decoder"), {}), "draws images and no embeddings"),
        (lambda r: UnclipPipeline(stage(r, "prior"), stage(r, "base"), {}), "reads label and no image_embedding"),
        (lambda r: UnclipPipeline(stage(r, "wide"), stage(r, "decoder"), {}), "embeddings of 7 numbers"),
        (lambda r: unclip(r, candidates=0), "candidates is a whole number"),
        (lambda r: RefinePipeline(stage(r, "base"), stage(r, "large")), "goes on from"),
        (lambda r: RefinePipeline(stage(r, "base"), stage(r, "base"), time=1.0), "between 0 and 1"),
    ],
)
def test_stages_that_do_not_fit_are_refused(runs: dict[str, str], build, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build(runs)


def test_another_clip_is_refused(runs: dict[str, str]) -> None:
    prior, decoder = stage(runs, "prior"), stage(runs, "decoder")
    prior.model.autoencoder.clip, decoder.model.conditioner.parts["image"].clip = "abcdef", "abc"
    UnclipPipeline(prior, decoder, {})
    decoder.model.conditioner.parts["image"].clip = "123456"
    with pytest.raises(ValueError, match=r"of the CLIP of sha256 abcdef, and pipeline.decoder reads those of 123456"):
        UnclipPipeline(prior, decoder, {})


def test_a_prior_alone_draws_no_images(runs: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="draws vectors of 6 numbers, which are no images"):
        diffusion.load(runs["prior"], weights="raw").sample(1, text="a cat")


@pytest.mark.slow
def test_the_script_draws_what_the_pipeline_draws(runs: dict[str, str], tmp_path: Path) -> None:
    named = " ".join(
        f"pipeline.{key}.run={runs[name]} pipeline.{key}.weights=raw"
        for key, name in {"prior": "prior", "decoder": "decoder", "upsamplers.x2": "large"}.items()
    )
    line = f"scripts/sample.py pipeline=unclip {named} 'text=[a cat,a dog]' num_samples=4 batch_size=4"
    run_script(f"{line} output={tmp_path / 'out'} paths.outputs={tmp_path}")
    drawn = np.load(tmp_path / "out" / "samples.npz")["arr_0"]
    due = unclip(runs).draw(torch.arange(4), 0, Request(text=["a cat", "a cat", "a dog", "a dog"]))
    assert np.array_equal(drawn, due.permute(0, 2, 3, 1).numpy())
    facts = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert facts["pipeline"] == {"class": "Unclip", "candidates": 2, "embedding": "prior"}
    assert set(facts["parts"]) == {"pipeline.prior", "pipeline.decoder", "pipeline.upsamplers.x2"}
    assert len({part["sha256"] for part in facts["parts"].values()}) == 3
    run_script(f"{line} output={tmp_path / 'less'} paths.outputs={tmp_path} pipeline.decoder.sampler.steps=1")
    less = json.loads((tmp_path / "less" / "settings.json").read_text())["stages"]
    assert [less[name]["sampler"]["steps"] for name in ("prior", "decoder", "upsamplers.x2")] == [2, 1, 2]


def drawn_by_script(runs: dict[str, str], tmp_path: Path, kind: str, names: dict[str, str], more: str) -> torch.Tensor:
    """What ``scripts/sample.py`` draws with a pipeline, (4, C, H, W)."""
    named = " ".join(f"pipeline.{key}.run={runs[name]} pipeline.{key}.weights=raw" for key, name in names.items())
    line = f"scripts/sample.py pipeline={kind} {named} num_samples=4 batch_size=4 paths.outputs={tmp_path}"
    run_script(f"{line} output={tmp_path / 'out'} {more}")
    return torch.from_numpy(np.load(tmp_path / "out" / "samples.npz")["arr_0"]).permute(0, 3, 1, 2)


def test_another_size_goes_down_the_chain(runs: dict[str, str], tmp_path: Path) -> None:
    names = {"base": "base", "upsamplers.x2": "large"}
    drawn = drawn_by_script(runs, tmp_path, "cascade", names, "image_size=[16,24]")
    base, large = stage(runs, "base", image_size=(8, 12)), stage(runs, "large", image_size=(16, 24))
    due = CascadePipeline(base, {"x2": large}, batch_size=4)
    assert drawn.shape == (4, 1, 16, 24)
    assert torch.equal(drawn, due.draw(torch.arange(4), 0))
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["shape"] == [1, 16, 24]
    with pytest.raises(ValueError, match=r"enlarges 8 x 8 pixels with 1 channels, and pipeline.base draws 8 x 12"):
        CascadePipeline(base, {"x2": stage(runs, "large")}, batch_size=4)


@pytest.mark.parametrize(
    ("kind", "names"),
    [("refine", {"base": "base", "refiner": "other"}), ("unclip", {"prior": "prior", "decoder": "decoder"})],
)
def test_stages_that_draw_images_draw_tiles(
    kind: str, names: dict[str, str], runs: dict[str, str], tmp_path: Path
) -> None:
    text = "text='a cat'" if kind == "unclip" else ""
    drawn = drawn_by_script(runs, tmp_path, kind, names, f"tile=true {text}")
    own = {key: stage(runs, name, **({} if key == "prior" else {"tile": True})) for key, name in names.items()}
    made: Any = UnclipPipeline(*own.values(), {}, batch_size=4) if kind == "unclip" else RefinePipeline(
        *own.values(), batch_size=4
    )  # fmt: skip
    assert torch.equal(drawn, made.draw(torch.arange(4), 0, Request(text=["a cat"] * 4 if text else None)))
    for one in own.values():
        one.tile = False
    assert not torch.equal(drawn, made.draw(torch.arange(4), 0, Request(text=["a cat"] * 4 if text else None)))


def test_chaos_is_of_the_first_stage(runs: dict[str, str], tmp_path: Path) -> None:
    names = {"prior": "prior", "decoder": "decoder"}
    drawn = drawn_by_script(runs, tmp_path, "unclip", names, "chaos=1 text='a cat'")
    prior, decoder = stage(runs, "prior", chaos=1.0), stage(runs, "decoder")
    due = UnclipPipeline(prior, decoder, {}, batch_size=4).draw(torch.arange(4), 0, Request(text=["a cat"] * 4))
    assert torch.equal(drawn, due)
    stages = json.loads((tmp_path / "out" / "settings.json").read_text())["stages"]
    assert stages["prior"]["chaos"] == 1.0
    assert "chaos" not in stages["decoder"]


@pytest.mark.slow
def test_a_pipeline_is_scored(runs: dict[str, str], tmp_path: Path) -> None:
    stages = f"pipeline.base.run={runs['base']} pipeline.base.weights=raw"
    line = f"scripts/evaluate.py pipeline=cascade {stages} evaluation=digits evaluation.num_samples=100"
    run_script(f"{line} paths.outputs={tmp_path} trainer=cpu")
    (scores,) = [json.loads(path.read_text()) for path in tmp_path.glob("pipelines/*/evaluation/*/metrics.json")]
    assert scores["fingerprint"]["samples"]["parts"]["pipeline.base"]["run"] == runs["base"]
    assert scores["fingerprint"]["samples"]["pipeline"]["class"] == "Cascade"


CASCADE = ["pipeline=cascade", "pipeline.base.run={base}", "pipeline.upsamplers.x2.run={large}"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pipeline=cascade"], "pipeline.base has no run; set pipeline.base.run="),
        (["pipeline=cascade", "pipeline.base.run=nowhere"], "pipeline.base: run=nowhere does not exist"),
        (["pipeline=cascade", "run={base}", "pipeline.base.run={base}"], "names the runs of its stages; leave run out"),
        (["pipeline=cascade", "pipeline.base.run={base}", "sampler=ddim"], "has a sampler for each stage"),
        (["pipeline=cascade", "pipeline.base.run={base}", "pipeline.upsamplers.a.rum=b"], "did you mean 'run'"),
        (["pipeline=cascade", "pipeline.base.run={base}", "pipeline.base.sampler.stepz=3"], "sampler.steps"),
        ([*CASCADE, "image_size=[15,24]"], "set image_size to sides that can be divided by all factors"),
        ([*CASCADE, "image_size=[14,24]"], "pipeline.base: image_size is [height, width] in pixels, multiples of"),
        ([*CASCADE, "tile=true"], "leave pipeline.upsamplers out, or tile"),
        ([*CASCADE, "style_reference={base}/config.yaml", "stylize=2"], "reads none; leave it out"),
        ([*CASCADE, "chaos=2"], "chaos is a number from 0 to 1"),
        ([], "nothing to draw with; give run="),
    ],
)
def test_wrong_stages_are_one_sentence(
    runs: dict[str, str],
    words: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    line = [word.format(**runs) for word in words]
    assert script(["sample", *line], monkeypatch) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
