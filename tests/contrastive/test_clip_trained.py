"""A run of module=contrastive as what others use: loaded, scored, a text encoder, a judge."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import config
from PIL import Image
from scripts_in_process import run_script

import diffusion
from diffusion.autoencoder.run import run_autoencoder
from diffusion.contrastive.trainable import TrainableClip
from diffusion.errors import ConfigError
from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.judge import Judge
from diffusion.experiment.build.build import build_data, build_module
from diffusion.experiment.build.load import PREFIX, identities, identity, read_checkpoint, trained
from diffusion.experiment.config.validate import check
from diffusion.experiment.run.saved_config import read_resolved
from diffusion.text_encoder.run import RunTextEncoder

DATA = "data=emoji data.styles=[twemoji] data.label=style data.num_classes=1"
WORDS = (
    f"module=contrastive {DATA} data.batch_size=16 module.model.image.widths=[8,16] module.model.image.blocks=1 "
    "module.model.dim=6 text_encoder.dim=8 text_encoder.pooled_dim=8 text_encoder.depth=1 text_encoder.vocabulary=50 "
    "text_encoder.dropout=0.1 text_encoder.length=16 optimizer.lr=2e-3 logger=csv trainer=cpu evaluation=retrieval "
    "callbacks.samples.num_samples=2"
)
TEXT = (
    f"{DATA} data.batch_size=8 conditioner=text text_encoder=run text_encoder.dim=8 text_encoder.pooled_dim=6 "
    "text_encoder.length=16 network=unet_tiny network.channels=8 network.channel_mult=[1,2] network.attention=[] "
    "guidance=none sampler=ddim sampler.steps=2 trainer=cpu logger=csv callbacks=[checkpoint] trainer.max_steps=2"
)
JUDGED = (
    "evaluation=efficientnet evaluation.metrics=[clip_score,r_precision] evaluation.num_samples=120 "
    "evaluation.reference=test"
)


def train(run: Path, *more: str) -> dict:
    run_script(f"scripts/train.py {WORDS} {' '.join(more)} hydra.run.dir={run}")
    return read_checkpoint(run / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(folder, "trainer.max_steps=6", "trainer.val_check_interval=3", "trainer.log_every_n_steps=2")
    return folder


@pytest.fixture(scope="module")
def model(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-to-image run on the CLIP's texts."""
    folder = tmp_path_factory.mktemp("text") / "model"
    run_script(f"scripts/train.py {TEXT} text_encoder.run={run} evaluation=none hydra.run.dir={folder}")
    return folder


def refused(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(pytest.fail.Exception):
        run_script(line)
    (said,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
    return said


def test_a_run_holds_what_it_trained(run: Path) -> None:
    assert not {"network", "schedule", "sampler", "objective", "autoencoder"} & {*read_resolved(run)}
    saved = read_checkpoint(run / "checkpoints" / "last.ckpt")
    assert {name.split(".")[0] for name in saved["state_dict"]} == {"model", "average"}
    with (run / "metrics.csv").open() as file:
        last = [row for row in csv.DictReader(file) if row["val/loss"]][-1]
    assert 0 <= float(last["val/accuracy"]) <= 1
    assert float(last["val/scale"]) == pytest.approx(1 / 0.07, rel=0.1)
    assert Image.open(run / "samples" / "step_0000006.png").size[0] > 32, "an image beside its words"


def test_a_grid_shows_the_nearest_image_of_each_caption(run: Path, tmp_path: Path) -> None:
    module = build_module(read_resolved(run))
    data = build_data(config(tmp_path, *DATA.split()))
    split, texts = data.split("test"), module.texts(data, 5)
    assert texts == [split.texts[len(split) * i // 5] for i in range(5)]
    vectors = module.average.image(split.batch(torch.arange(len(split)))["image"])
    found = [max(range(len(split)), key=lambda i: float(vectors[i] @ v)) for v in module.average.text(texts)]
    assert torch.equal(module.images(data, 5, 0), split.images[found])


def test_a_run_is_loaded_as_a_frozen_clip(run: Path) -> None:
    clip = diffusion.load(run)
    assert isinstance(clip, TrainableClip)
    assert not any(p.requires_grad for p in clip.parameters())
    assert clip.sha256 == identity(run).sha256 != diffusion.load(run, weights="raw").sha256
    assert clip.image(torch.rand(2, 3, 32, 32)).shape == clip.text(["a", "b"]).shape == (2, 6)


def test_scores_are_those_of_counting(run: Path, tmp_path: Path) -> None:
    (path,) = run.glob("evaluation/*/metrics.json")
    record = json.loads(path.read_text())
    split = build_data(config(tmp_path, *DATA.split())).split("test")
    n = len(split)
    assert {*record["metrics"]} == {f"{way}_r{k}_{n}" for way in ("image_to_text", "text_to_image") for k in (1, 5)} | {
        f"zero_shot_{n}"
    }
    assert record["metrics"][f"zero_shot_{n}"] == 1, "there is one style"
    clip, texts = diffusion.load(run), list(dict.fromkeys(split.texts))
    cosines = (clip.image(split.batch(torch.arange(n))["image"]).double() @ clip.text(texts).double().T).tolist()
    nearest = [sorted(texts, key=lambda text: -row[texts.index(text)])[:5] for row in cosines]
    found = sum(text in first for text, first in zip(split.texts, nearest, strict=True))
    assert record["metrics"][f"image_to_text_r5_{n}"] == pytest.approx(found / n)


def test_evaluate_writes_a_score_of_a_run(run: Path) -> None:
    run_script(f"scripts/evaluate.py run={run} weights=raw evaluation.num_samples=40 trainer.accelerator=cpu")
    (path,) = run.glob("evaluation/last_raw_*/metrics.json")
    record = json.loads(path.read_text())
    assert "image_to_text_r5_40" in record["metrics"]
    assert len(record["fingerprint"]["samples"]["clip"]["sha256"]) == 64
    shutil.rmtree(path.parent)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """The captions of its epochs and its dropout included."""
    whole = train(tmp_path / "whole", "trainer.max_steps=6", "evaluation=none")
    train(tmp_path / "cut", "trainer.max_steps=3", "evaluation=none")
    run_script(f"scripts/train.py resume={tmp_path / 'cut'} trainer.max_steps=6")
    resumed = read_checkpoint(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    assert all(torch.equal(x, resumed["state_dict"][name]) for name, x in whole["state_dict"].items())


def test_a_text_tower_conditions_another_model_and_is_named_by_its_hash(run: Path, model: Path) -> None:
    clip, drawn = diffusion.load(run), diffusion.load(model)
    encoder = drawn.conditioner.encoder
    texts = ["a red heart", "", "two stars and a very blue moon"]
    found, own = encoder(texts), clip.encoded(texts)
    for one, other in zip(found, own, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(found.pooled, clip.text(texts))
    torch.testing.assert_close(encoder(texts[2:]).tokens, found.tokens[2:])
    assert encoder.spans("red heart") == clip.text_encoder.spans("red heart")
    saved = read_checkpoint(model / "checkpoints" / "last.ckpt")
    assert saved["frozen"] == {"conditioner.encoder": clip.sha256}
    assert {role: part["sha256"] for role, part in saved["parts"].items()} == {"text_encoder": clip.sha256}
    assert not any("encoder" in name for name in saved["state_dict"])
    assert drawn.sample(2, text="a heart").shape == (2, 3, 32, 32)


def test_another_text_tower_is_refused(run: Path, model: Path, tmp_path: Path) -> None:
    copy, moved = tmp_path / "clip", shutil.copytree(model, tmp_path / "model")
    shutil.copytree(run, copy)
    for file in ("config.yaml", ".hydra/config.yaml"):
        (moved / file).write_text((moved / file).read_text().replace(str(run), str(copy)))
    diffusion.load(moved)
    shutil.rmtree(copy)
    other_weights(run, copy)
    with pytest.raises(ConfigError, match=r"text_encoder was .* with weights of sha256 .*; set text_encoder\.run to"):
        diffusion.load(moved)


def test_widths_and_hashes_that_are_not_the_clips_are_refused(run: Path) -> None:
    right = {"dim": 8, "pooled_dim": 6, "length": 16}
    for wrong, sentence in (
        ({"pooled_dim": 128}, r"text_encoder\.pooled_dim is 128, and the model has 6"),
        ({"length": 32}, r"text_encoder\.length is 32, and the model has 16"),
        ({"sha256": "00"}, r"expected 00; set text_encoder\.run"),
    ):
        with pytest.raises(ValueError, match=sentence):
            RunTextEncoder(str(run), **{**right, **wrong})


def other_weights(run: Path, folder: Path) -> Path:
    """The run with one weight changed."""
    copy = shutil.copytree(run, folder)
    path = copy / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["state_dict"][next(name for name in saved["state_dict"] if name.startswith(PREFIX["ema"]))] += 1
    torch.save(saved, path)
    return copy


def test_a_judge_that_guided_the_sampling_is_refused_or_said(
    run: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawn, data = diffusion.load(model), build_data(config(tmp_path, *DATA.split()))
    pipeline = drawn.pipeline(columns=data.split("test").requests, batch_size=60)
    names = ["clip_score", "r_precision"]
    guided = Evaluator("digits-cnn-v1", names, 120, 60, reference="test", clip=Judge(str(run)))
    for ask in (guided.check, guided.evaluate):
        with pytest.raises(ValueError, match="a CLIP that did not guide the sampling"), caplog.at_level("WARNING"):
            ask(pipeline, data)
    assert caplog.text.count("clip_score is judged by a CLIP that is part of what is scored") == 2
    other = other_weights(run, tmp_path / "other")
    evaluator = Evaluator("digits-cnn-v1", names, 120, 60, reference="test", clip=str(other))
    evaluator.check(pipeline, data)
    found = evaluator.evaluate(pipeline, data)
    assert {*found.metrics} == {*found.real_baseline} == {f"{name}_digits-cnn-v1_120" for name in names}
    assert {*found.better.values()} == {"higher"}
    sha256 = diffusion.load(other).sha256
    assert {one["judge"]["sha256"] for one in found.fingerprint["clip"].values()} == {sha256}


@pytest.mark.slow
def test_a_judge_is_a_part_of_the_record_and_none_of_the_model(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before the first step; another one in a training, and in a score of its run."""
    other = other_weights(run, tmp_path / "other")
    line = f"scripts/train.py {TEXT} {JUDGED} evaluation.clip.run={run}"
    said = refused(f"{line} text_encoder.run={run} hydra.run.dir={tmp_path / 'same'}", capsys)
    assert "r_precision is judged by a CLIP that did not guide the sampling" in said
    assert not (tmp_path / "same" / "checkpoints").exists()
    judged = tmp_path / "judged"
    run_script(f"{line} text_encoder.run={other} hydra.run.dir={judged}")
    (path,) = judged.glob("evaluation/*/metrics.json")
    metrics = json.loads(path.read_text())["metrics"]
    parts = json.loads((judged / "environment.json").read_text())["parts"]
    assert {role: part["sha256"] for role, part in parts.items()} == {
        "text_encoder": diffusion.load(other).sha256,
        "evaluation.clip": diffusion.load(run).sha256,
    }
    assert {*identities(read_resolved(judged))} == {"text_encoder"}
    run_script(f"scripts/evaluate.py run={judged} evaluation.metrics=[] evaluation/metric=[clip_score,r_precision]")
    (again,) = (other for other in judged.glob("evaluation/*/metrics.json") if other != path)
    record = json.loads(again.read_text())
    assert record["metrics"] == metrics
    assert "own_metrics" not in record["fingerprint"], "they are as this project ships them"


@pytest.mark.slow
def test_a_run_of_something_else_is_refused_in_one_sentence(
    run: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="is a diffusion model, and what is due here is a run of module=contrastive"):
        Judge(str(model)).load()
    with pytest.raises(ConfigError, match="is a CLIP, and what is due here is a run of module=diffusion or"):
        run_autoencoder(str(run))
    teacher = ["objective=matching", f"objective.teacher.run={run}"]
    for words, sentence in (
        (["evaluation=retrieval"], "scores module=contrastive"),
        (teacher, "is a CLIP, and a diff"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check(config(tmp_path, *words))
    for line, sentence in (
        (f"scripts/train.py {WORDS} network=dit_s2", "module=contrastive has no network"),
        (f"scripts/evaluate.py run={run} sampler=ddim", "is a CLIP, which has no sampler"),
        (f"scripts/evaluate.py run={run} labels=drawn", "a CLIP draws nothing"),
        (f"scripts/evaluate.py run={run} plan=true", "how long retrievals take is not foretold"),
        (f"scripts/sample.py run={run}", "is a CLIP, which draws no images of its own; use it as text_encoder=run"),
        (f"scripts/export.py run={run} output={tmp_path / 'o'}", "is a CLIP, which diffusers has no form for"),
    ):
        assert sentence in refused(line, capsys), line


def test_an_exported_clip_is_its_weights(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run_script(f"scripts/export.py run={run} output={tmp_path / 'out'} format=safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    model, _ = trained(read_resolved(run), run)
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())
