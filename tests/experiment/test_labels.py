"""Classes and captions of samples, in ``sample``, ``evaluate``, ``DiffusionModel.sample`` and a training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config
from model_folders import run_folder
from scripts_in_process import run_script

import diffusion
from diffusion.errors import ConfigError
from diffusion.experiment.task import train

SMALL = ["sampler=ddim", "sampler.steps=2", "spacing=trailing"]
NAMES = ["ant", "bee", "cat"]
SCORED = "evaluation=digits evaluation.num_samples=12 evaluation.metrics=[fd] evaluation.save_samples=true"


def made(place: Path, *overrides: str) -> Path:
    run = run_folder(place, "run", *SMALL, *overrides)
    (run / ".hydra").mkdir()
    shutil.copy(run / "config.yaml", run / ".hydra" / "config.yaml")
    return run


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = made(tmp_path_factory.mktemp("labelled"), "conditioner=label")
    (run / "classes.json").write_text(json.dumps({name: i for i, name in enumerate(NAMES)}))
    return run


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = ["conditioner=text", "text_encoder=words", "text_encoder.dim=8", "text_encoder.pooled_dim=8"]
    return made(tmp_path_factory.mktemp("captioned"), *text)


def scored(run: Path) -> tuple[np.ndarray, dict]:
    """The images and the record of the newest evaluation."""
    newest = max(run.glob("evaluation/*"), key=lambda folder: folder.stat().st_mtime_ns)
    with np.load(newest / "samples.npz") as file:
        return file["arr_0"], json.loads((newest / "metrics.json").read_text())["fingerprint"]


def drawn(run: Path, folder: Path, words: str) -> np.ndarray:
    run_script(f"scripts/sample.py run={run} output={folder} {words}")
    with np.load(folder / "samples.npz") as file:
        return file["arr_0"]


@pytest.mark.slow
def test_names_and_numbers_are_the_same_classes_everywhere(labelled: Path, tmp_path: Path) -> None:
    model = diffusion.load(labelled)
    by_number = model.sample(12, labels=[2, 0], batch_size=4)
    assert torch.equal(model.sample(12, labels=["cat", "ant"], batch_size=4), by_number)
    assert torch.equal(model.sample(12, labels=["cat", 0], batch_size=4), by_number)
    cats = model.sample(12, labels="cat", batch_size=4)
    assert torch.equal(cats, model.sample(12, labels=2, batch_size=4))
    assert torch.equal(cats[::2], by_number[::2])
    assert not torch.equal(cats[1::2], by_number[1::2])
    images = by_number.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(drawn(labelled, tmp_path / "a", "labels=[cat,ant] num_samples=12 batch_size=4"), images)
    run_script(f"scripts/evaluate.py run={labelled} {SCORED} evaluation.batch_size=4 labels=[cat,ant]")
    found, record = scored(labelled)
    assert np.array_equal(found, images)
    assert record["samples"]["labels"] == [2, 0]
    run_script(f"scripts/evaluate.py run={labelled} {SCORED} evaluation.batch_size=4 evaluation.labels=bee")
    found, record = scored(labelled)
    assert np.array_equal(found, model.sample(12, labels=1, batch_size=4).permute(0, 2, 3, 1).numpy())


@pytest.mark.slow
def test_captions_are_given_in_turn(captioned: Path, tmp_path: Path) -> None:
    model = diffusion.load(captioned)
    images = model.sample(12, text=["a red heart", "a blue star"], batch_size=4).permute(0, 2, 3, 1).numpy()
    one = model.sample(12, text="a red heart", batch_size=4).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(one[::2], images[::2])
    assert not np.array_equal(one[1::2], images[1::2])
    captions = tmp_path / "captions.txt"
    captions.write_text("a red heart\na blue star\n")
    for words in ("text='[a red heart,a blue star]'", f"text_file={captions}"):
        run_script(f"scripts/evaluate.py run={captioned} {SCORED} evaluation.batch_size=4 {words}")
        assert np.array_equal(scored(captioned)[0], images)
    assert len(list(captioned.glob("evaluation/*"))) == 1  # one request
    run_script(f"scripts/evaluate.py run={captioned} {SCORED} evaluation.batch_size=4 text='a red heart'")
    assert np.array_equal(scored(captioned)[0], one)
    assert len(list(captioned.glob("evaluation/*"))) == 2
    led = "guidance=classifier_free guidance.classifier_free.scale=3 text='a red heart'"
    run_script(f"scripts/evaluate.py run={captioned} {SCORED} evaluation.batch_size=4 {led} negative='a blue star'")
    found, record = scored(captioned)
    assert np.array_equal(
        found, drawn(captioned, tmp_path / "led", f"{led} negative='a blue star' num_samples=12 batch_size=4")
    )
    assert not np.array_equal(found, drawn(captioned, tmp_path / "plain", f"{led} num_samples=12 batch_size=4"))
    assert "negative" in record["samples"]["columns"]


def test_a_class_that_is_none_is_answered_with_the_nearest(labelled: Path) -> None:
    model = diffusion.load(labelled)
    for labels, sentence in (
        ("bees", "or their names .ant, bee, cat.*mean 'bee'"),
        ([3, 16], "classes below 10"),
        ([], "got"),
    ):
        with pytest.raises(ValueError, match=sentence):
            model.sample(2, labels=labels)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("labels=[ant,16]", "labels is balanced or drawn, or classes by number, 0 to 9"),
        ("labels=[bees]", "did you mean labels=bee?"),
        ("text=[a,b]", "text gives captions, and this model's conditioner reads none"),
        ("negative=a", "negative is a prompt, and this model's conditioner reads no texts"),
        ("text=a text_file=b", "text and text_file both give prompts"),
        ("evaluation=likelihood labels=[ant]", "labels chooses what is drawn, and evaluation=likelihood draws nothing"),
    ],
)
def test_evaluate_refuses_in_a_sentence(
    words: str, sentence: str, labelled: Path, capsys: pytest.CaptureFixture
) -> None:
    scores = "" if "evaluation=" in words else SCORED
    with pytest.raises(pytest.fail.Exception, match="ended with 2"):
        run_script(f"scripts/evaluate.py run={labelled} {scores} {words}")
    assert sentence in capsys.readouterr().err


def test_a_training_refuses_a_class_before_it_begins(tmp_path: Path) -> None:
    small = ["logger=csv", "network.channels=8", "trainer.max_steps=1", "callbacks=[checkpoint]", *SMALL]
    cfg = config(tmp_path, *small, "conditioner=label", "evaluation=digits", "evaluation.labels=[3,16]")
    with pytest.raises(ConfigError, match="classes below 10"):
        train.train(cfg)
    assert not (tmp_path / "checkpoints").exists()
