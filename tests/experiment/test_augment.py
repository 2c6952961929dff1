"""scripts/augment.py: a labelled data set of samples that is gone on with, and read as any folder of classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import run_folder
from PIL import Image
from scripts_in_process import script

import diffusion
from diffusion.data.image_folder import ImageFolder
from diffusion.errors import DataError

SMALL = ["data.resolution=8", "sampler=ddim", "sampler.steps=2", "spacing=trailing"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run_folder(tmp_path_factory.mktemp("runs"), "labelled", *SMALL, "conditioner=label")
    (folder / ".hydra").mkdir()
    shutil.copy(folder / "config.yaml", folder / ".hydra" / "config.yaml")
    return folder


def images(folder: Path, per_class: int) -> torch.Tensor:
    """uint8 (10 per_class, 1, 8, 8), in the order of the samples' numbers."""
    files = [folder / str(i % 10) / f"{i // 10:06d}.png" for i in range(10 * per_class)]
    return torch.from_numpy(np.stack([np.asarray(Image.open(file)) for file in files]))[:, None]


@pytest.mark.slow
def test_a_set_is_the_samples_of_the_run_whatever_interrupts_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    line = ["augment", f"run={run}", f"output={made}", "batch_size=8", "seed=3"]
    assert script([*line, "per_class=2"], monkeypatch) == 0
    due = diffusion.load(run).sample(30, seed=3, batch_size=8)
    assert torch.equal(images(made, 2), due[:20])

    for file in ("0/000001.png", "7/000000.png"):  # a kill between two files
        (made / file).unlink()
    with pytest.raises(DataError, match="2 rows have no image"):
        ImageFolder(str(made), channels=1, resolution=8, num_classes=10).setup()
    untouched = (made / "5" / "000000.png").stat().st_mtime_ns
    assert script([*line, "per_class=3"], monkeypatch) == 0, "and enlarged"
    assert torch.equal(images(made, 3), due)
    assert (made / "5" / "000000.png").stat().st_mtime_ns == untouched

    data = ImageFolder(str(made), channels=1, resolution=8, num_classes=10, test_fraction=0.3)
    labels = torch.cat([data.split(name).labels for name in ("train", "test")])
    assert labels.bincount().tolist() == [3] * 10
    facts = json.loads((made / "settings.json").read_text())
    assert (facts["run"], facts["seed"], facts["weights"]) == (str(run), 3, "ema")
    assert {"weights_sha256", "guidance", "sampler"} <= facts.keys()

    for words, sentence in (
        (["per_class=2"], "holds 30 samples and 20 are requested"),
        (["per_class=3", "sampler.steps=3"], "samples of other settings (sampler)"),
    ):
        assert script([*line, *words], monkeypatch) == 2
        assert sentence in capsys.readouterr().err


def test_other_folders_and_models_without_classes_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert script(["augment", f"run={run}", f"output={tmp_path}"], monkeypatch) == 2
    assert "did not write" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    plain = run_folder(tmp_path, "plain", *SMALL)
    (plain / ".hydra").mkdir()
    shutil.copy(plain / "config.yaml", plain / ".hydra" / "config.yaml")
    assert script(["augment", f"run={plain}", f"output={tmp_path / 'made'}"], monkeypatch) == 2
    assert "is not of conditioner=label" in capsys.readouterr().err


@pytest.mark.slow
def test_a_classifier_of_samples_is_trained_after_its_model_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = "data=augmented,data.per_class=8,trainer.max_steps=2,evaluation=none,sampler=ddim,sampler.steps=2"
    words = [
        "train",
        "experiment=digits_augmented_classifier",
        "data.per_class=8",
        "data.synthetic.per_class=4",
        f"needs.generator=[experiment=digits_ddpm,conditioner=label,{few}]",
        "trainer.max_steps=3",
        "logger=csv",
        f"paths.outputs={tmp_path}",
        f"paths.data={tmp_path}",
    ]
    assert script(words, monkeypatch) == 0
    (folder,) = (tmp_path / "digits_augmented_classifier").iterdir()
    environment = json.loads((folder / "environment.json").read_text())
    (model,) = (tmp_path / "digits_ddpm").iterdir()
    assert environment["parts"]["data.synthetic"]["run"] == str(model)
    (drawn,) = tmp_path.rglob("synthetic/*.npy")
    assert np.load(drawn).shape == (40, 1, 8, 8)
    (file,) = folder.glob("evaluation/*/metrics.json")
    scored = json.loads(file.read_text())["metrics"]
    assert 0 <= scored["accuracy_897"] <= 1
    file.unlink()
    assert script(["evaluate", f"run={folder}", "evaluation=classification"], monkeypatch) == 0
    assert json.loads(file.read_text())["metrics"] == scored
