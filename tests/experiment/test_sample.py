"""scripts/sample.py: wrong requests are refused, two requests share no folder, a folder holds one request's samples."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import run_folder
from omegaconf import OmegaConf
from PIL import Image
from test_settings import ROOT, script
from warm import Popen

from diffusion.data.image_folder import ImageFolder
from diffusion.experiment.task import sample_output
from diffusion.pipeline.single import SinglePipeline

SMALL = ["sampler=ddim", "sampler.steps=2", "data.resolution=8", "spacing=trailing"]
CLASSES = {"zero": 0, "one": 1, "müsli": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    for name, conditioner in (("labelled", "label"), ("plain", "none")):
        run = run_folder(place, name, *SMALL, f"conditioner={conditioner}")
        (run / ".hydra").mkdir()
        shutil.copy(run / "config.yaml", run / ".hydra" / "config.yaml")
    (place / "labelled" / "classes.json").write_text(json.dumps(CLASSES), encoding="utf-8")
    return place


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """A run of its own for each test."""
    return Path(shutil.copytree(made / "labelled", tmp_path / "run"))


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "samples.npz") as file:
        return dict(file)


def folders(run: Path) -> set[Path]:
    return set((run / "samples").iterdir()) if (run / "samples").is_dir() else set()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["num_samples=0"], ["num_samples is a whole number of at least 1, or null", "set num_samples"]),
        (["num_samples=-4"], ["num_samples is"]),
        (["num_samples=1.5"], ["num_samples is"]),
        (["num_samples=many"], ["num_samples is"]),
        (["batch_size=0"], ["batch_size is"]),
        (["seed=-1"], ["seed is a whole number from 0 to 2^63 - 1"]),
        (["seed=9223372036854775808"], ["seed is"]),
        (["weights=EMA"], ["weights is ema or raw", "scripts/ema.py"]),
        (["checkpoint=lsat"], ["no checkpoint 'lsat'", "last"]),
        (["labels=10"], ["labels is balanced or drawn", "0 to 9", "müsli", "got 10"]),
        (["labels=[1,10]"], ["got 10"]),
        (["labels=musli"], ["did you mean labels=müsli"]),
        (["labels=Drawn"], ["did you mean labels=drawn"]),
        (["text=[a,b]", "num_samples=3"], ["num_samples=3 is not as many for each of 2 prompts"]),
        (["negative=a"], ["negative is the prompt", "give text too"]),
        (["text=[a,' ']"], ["text holds an empty prompt"]),
        (["text=''"], ["text holds an empty prompt"]),
        (["text=a"], ["text is requested, and this model reads labels", "leave text out"]),
        (["text=a", "text_file=b"], ["text and text_file both give prompts"]),
        (["text_file=nowhere.txt"], ["text_file=nowhere.txt cannot be read"]),
        (["sampler.etta=1"], ["did you mean 'sampler.eta'"]),
        (["sampler=heun", "sampler.churm=1"], ["sampler.churn"]),
        (["labls=3"], ["did you mean 'labels'"]),
        (["text=a (b"], ["quoted for Hydra and for the shell"]),
        (["output=."], ["output"]),
    ],
    ids=str,
)
def test_a_wrong_request_is_one_sentence(
    words: list[str],
    parts: list[str],
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(made.rglob("*"))
    assert script(["sample", f"run={made / 'labelled'}", *words], monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not [part for part in parts if part not in line], line
    assert not {"evaluation.", "trainer."} & set(re.findall(r"[a-z]+\.", line)), "keys that this script does not have"
    assert sorted(made.rglob("*")) == before


def test_a_model_without_classes_is_guided_to_those_of_a_classifier(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = run_folder(
        tmp_path, "classifier", "objective=classification", "conditioner=label", "network=classifier_digits"
    )
    words = ["guidance=classifier", f"guidance.classifier.classifier.run={classifier}", f"output={tmp_path / 'drawn'}"]
    assert script(["sample", f"run={made / 'plain'}", "num_samples=3", "labels=[3,7]", *words], monkeypatch) == 0
    assert arrays(tmp_path / "drawn")["arr_1"].tolist() == [3, 7, 3]


def test_a_model_without_classes_takes_none(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in (["sample", "labels=3"], ["evaluate", "evaluation=digits", "evaluation.labels=3"]):
        assert script([line[0], f"run={made / 'plain'}", *line[1:]], monkeypatch) == 2
        error = capsys.readouterr().err
        assert f"{line[-1]} names a class, and this run's model has none; leave" in error


@pytest.mark.slow
def test_two_requests_share_no_folder_and_one_has_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [
        [], ["num_samples=3"], ["seed=1"], ["labels=3"], ["labels=7"], ["labels=drawn"], ["labels=[3,7]"],
        ["weights=raw"], ["guidance=[]"], ["guidance=classifier_free"], ["sampler.eta=1"], ["sampler=heun"],
        ["batch_size=3"], ["checkpoint=other"],
    ]  # fmt: skip
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(saved, run / "checkpoints" / "other.ckpt")
    for number, words in enumerate(requests, 1):
        assert script(["sample", f"run={run}", "num_samples=2", *words], monkeypatch) == 0
        assert len(folders(run)) == number, words
    for words in (["labels=3"], ["labels=drawn"], []):
        assert script(["sample", f"run={run}", "num_samples=2", *words], monkeypatch) == 0
    assert script(["sample", f"run={run}", "num_samples=2", "labels=[3]"], monkeypatch) == 0
    assert len(folders(run)) == len(requests) + 1
    torch.save({"state_dict": {k: v + 0.01 for k, v in saved["state_dict"].items()}}, run / "checkpoints" / "last.ckpt")
    assert script(["sample", f"run={run}", "num_samples=2"], monkeypatch) == 0
    assert len(folders(run)) == len(requests) + 2, "other weights of the same name"


def test_samples_are_a_data_set_with_their_classes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "ü (1), drawn"
    line = ["sample", f"run={run}", "num_samples=7", "labels=['müsli',5]", f"output='{out}'"]
    assert script(line, monkeypatch) == 0
    found = arrays(out)
    assert (found["arr_0"].dtype, found["arr_0"].shape) == (np.uint8, (7, 8, 8, 1))
    assert (found["arr_1"].dtype, found["arr_1"].tolist()) == (np.int64, [2, 5, 2, 5, 2, 5, 2])
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows[0] == {"file_name": "000000.png", "label": 2, "class_name": "müsli"}
    assert rows[1] == {"file_name": "000001.png", "label": 5}
    assert sorted(path.name for path in out.glob("*.png")) == [f"{i:06d}.png" for i in range(7)]
    for i, image in enumerate(found["arr_0"]):
        assert np.array_equal(np.asarray(Image.open(out / f"{i:06d}.png")), image[..., 0])
    data = ImageFolder(str(out), channels=1, resolution=8, num_classes=6, batch_size=2, test_fraction=0.3)
    data.setup()
    splits = [data.split("train"), data.split("test")]
    read = [pair for s in splits for pair in zip(map(bytes, s.images.numpy()), s.labels.tolist(), strict=True)]
    assert sorted(read) == sorted(zip(map(bytes, found["arr_0"]), found["arr_1"].tolist(), strict=True))


@pytest.mark.slow
def test_fewer_samples_leave_none_of_before_and_are_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, images = tmp_path / "out", {}
    for count in (8, 40, 3):
        assert script(["sample", f"run={run}", f"num_samples={count}", f"output={out}"], monkeypatch) == 0
        assert len(list(out.glob("*.png"))) == count
        images[count] = arrays(out)["arr_0"]
        settings = json.loads((out / "settings.json").read_text())
        assert (settings["num_samples"], settings["batch_size"]) == (count, 16)
    assert np.array_equal(images[40][:8], images[8])
    assert np.array_equal(images[40][:3], images[3])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_no_sample_is_never_removed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, line = tmp_path / "out", ["sample", f"run={run}", "num_samples=2", f"output={tmp_path / 'out'}"]
    assert script(line, monkeypatch) == 0
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    assert script([*line, "seed=1"], monkeypatch) == 2
    assert "holds notes.txt, which scripts/sample.py did not write" in capsys.readouterr().err
    assert contents(out) == before
    (out / "notes.txt").unlink()
    (out / "settings.json").unlink()
    assert script(line, monkeypatch) == 2, "PNG files of somebody"
    shutil.rmtree(out)
    out.write_text("a file")
    assert script(line, monkeypatch) == 2
    assert out.read_text() == "a file"


def test_samples_that_cannot_be_written_leave_the_old_ones(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["sample", f"run={run}", "num_samples=2", f"output={tmp_path / 'out'}"]
    assert script(line, monkeypatch) == 0
    before = contents(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample_output, "save_grid", full)
    assert script([*line, "seed=1"], monkeypatch) == 2
    assert "cannot be written: No space left on device; make room" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_diverged_model_is_one_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    state = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in saved["state_dict"].items()}
    torch.save({"state_dict": state}, run / "checkpoints" / "last.ckpt")
    assert script(["sample", f"run={run}", "num_samples=2"], monkeypatch) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert re.match("error: 2 of .* NaN or infinity; the model has diverged", line)
    assert folders(run) == set()


def test_ctrl_c_says_what_is_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SinglePipeline, "draw", interrupted)
    assert script(["sample", f"run={run}", "num_samples=2"], monkeypatch) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match("interrupted: no image of this request was kept.*; run the same command again", line)
    assert folders(run) == set()
    evaluation = ["evaluation=digits", "evaluation.num_samples=20", "evaluation.metrics=[fd]", "trainer=cpu"]
    assert script(["evaluate", f"run={run}", *evaluation], monkeypatch) == 130
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"interrupted: finished batches are kept in {run}/evaluation/")


RANKS = """
import sys, time
from pathlib import Path
from omegaconf import OmegaConf
from diffusion.experiment.cli.app import _exit_codes
from diffusion.experiment.launch.elastic import launch
from diffusion.experiment.run.signals import interruptible
folder = Path(sys.argv[1])
cfg = OmegaConf.create({"folder": str(folder), "mode": sys.argv[2], "trainer": {"devices": 2},
                        "keep_freed_memory": True})
with _exit_codes(), interruptible("three batches are kept"):
    launch(folder, cfg, "task_of_the_test:main")
"""
TASK = """
import os, time
from pathlib import Path
from diffusion.errors import DivergedError

def main(cfg):
    rank = int(os.environ["RANK"])
    (Path(cfg.folder) / f"pid{rank}").write_text(str(os.getpid()))
    if cfg.mode == "diverge" and rank == 1:
        raise DivergedError("2 of 4 images hold NaN")
    if cfg.mode == "bug" and rank == 1:
        raise IndexError("a bug")
    time.sleep(60)
"""


@pytest.fixture
def ranks(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    (tmp_path / "task_of_the_test.py").write_text(TASK)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}

    def start(mode: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RANKS, str(tmp_path), mode]
        return Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)

    return start


@pytest.mark.slow
@pytest.mark.parametrize("everybody", [True, False])
def test_ctrl_c_on_several_ranks_has_no_traceback(ranks, tmp_path: Path, everybody: bool) -> None:
    """A terminal's Ctrl-C reaches every process; ``kill -INT`` the first one."""
    job = ranks("sleep")
    deadline = time.monotonic() + 60
    while not all((tmp_path / f"pid{i}").exists() for i in (0, 1)) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    (os.killpg if everybody else os.kill)(job.pid, signal.SIGINT)
    _, error = job.communicate(timeout=60)
    assert job.returncode == 130
    assert "interrupted: three batches are kept" in error
    assert "Traceback" not in error, error


@pytest.mark.slow
def test_a_users_error_on_a_rank_is_its_sentence_and_a_bug_has_its_traceback(ranks) -> None:
    job = ranks("diverge")
    _, error = job.communicate(timeout=90)
    assert (job.returncode, error.splitlines()[-1]) == (2, "error: 2 of 4 images hold NaN")
    assert "Traceback" not in error, error
    job = ranks("bug")
    _, error = job.communicate(timeout=90)
    assert job.returncode == 1
    assert re.search("task_of_the_test.py.*IndexError: a bug", error, re.S)


def test_scores_of_two_folders_of_images_do_not_meet(tmp_path: Path) -> None:
    from diffusion.experiment.task.score_folder import target

    base = {"evaluation": {"extractor": "digits-cnn-v1"}, "output": str(tmp_path), "data": {"root": "a"}}
    places = {
        target(OmegaConf.create({**base, "images": images, "data": {"root": data}}))
        for images, data in (("a", "x"), ("b", "x"), ("a", "y"))
    }
    assert [place.parent for place in places] == [tmp_path] * 3
