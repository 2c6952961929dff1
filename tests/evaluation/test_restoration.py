"""Scores of restored images: closed forms of a Gaussian, and several samples of a measurement in miniature."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import run_folder
from PIL import Image
from scripts_in_process import script

from diffusion.evaluation.restoration import coverage, crps, levels_of, nmse, scores
from diffusion.training.module.autoencoder import psnr


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_crps_of_many_draws_is_that_of_their_gaussian() -> None:
    """sd (z (2 Phi(z) - 1) + 2 phi(z) - pi^-1/2), z = (y - mean) / sd (Gneiting & Raftery 2007, eq. 21)."""
    mean, sd, y = 0.7, 1.3, torch.linspace(-3, 4, 8, dtype=torch.float64)
    z = (y - mean) / sd
    phi, below = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi), (1 + torch.erf(z / math.sqrt(2))) / 2
    due = sd * (z * (2 * below - 1) + 2 * phi - 1 / math.sqrt(math.pi))
    found = crps((mean + sd * normal(100_000))[:, None].expand(-1, 8), y)
    torch.testing.assert_close(found, due, atol=0.02, rtol=0)


def test_the_crps_is_unbiased_for_two_samples_and_equals_its_definition() -> None:
    """Its mean over pairs of draws is that of the Gaussian: with 1 / n^2 in place of 1 / (n (n - 1)) it would be 0.28
    more."""
    pairs = normal(2, 200_000)
    due = 2 / math.sqrt(2 * math.pi) - 1 / math.sqrt(math.pi)  # of N(0, 1) at y = 0
    assert abs(float(crps(pairs, torch.zeros(200_000, dtype=torch.float64)).mean()) - due) < 0.01
    few, y = normal(7, 3), normal(3, seed=1)
    apart = (few[:, None] - few[None]).abs().sum((0, 1)) / (7 * 6)
    torch.testing.assert_close(crps(few, y), (few - y).abs().mean(0) - apart / 2)


@pytest.mark.parametrize("n", [2, 5, 19, 64])
def test_samples_of_the_true_posterior_cover_as_often_as_they_say(n: int) -> None:
    """The truth and n samples are draws of one Gaussian, of another mean and width in each pixel."""
    pixels = 40_000
    mean, sd = 3 * normal(pixels, seed=1), normal(pixels, seed=2).exp()
    draws = mean + sd * normal(n + 1, pixels)
    found = coverage(draws[1:], draws[0])
    assert found.keys() == levels_of(n).keys()
    for level, share in found.items():
        assert abs(share - level) < 4 * math.sqrt(level * (1 - level) / pixels)
    narrow = coverage(mean + 0.5 * (draws[1:] - mean), draws[0])
    assert all(narrow[level] < level - 0.05 for level in found), "half of the spread covers too little"


def test_levels_are_those_that_order_statistics_have() -> None:
    assert levels_of(19) == {0.5: 5, 0.8: 2, 0.9: 1}
    assert list(levels_of(2)) == [pytest.approx(1 / 3)]


def test_scores_are_of_the_mean_in_the_units_of_the_data() -> None:
    truth, noise = 100 * torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)), normal(2, 16, 16)
    samples = torch.stack((truth + noise + 5, truth + noise - 5))
    found = scores(samples, truth, (0, 100))
    error = float(noise.square().mean())
    assert found["psnr"] == pytest.approx(10 * math.log10(100**2 / error), abs=1e-6)
    assert found["nmse"] == pytest.approx(float(noise.square().sum() / truth.double().square().sum()), rel=1e-6)
    assert 0.9 < found["ssim"] < 1
    assert scores(truth[None], truth, (0, 100)).keys() == {"psnr", "ssim", "nmse"}
    assert scores(truth[None], truth, (0, 100))["ssim"] == pytest.approx(1)
    assert "ssim" not in scores(samples[..., :8, :8], truth[:, :8, :8], (0, 100))
    assert nmse(torch.zeros(3), torch.ones(3)) == 1
    image = torch.arange(4).reshape(1, 1, 2, 2)
    assert float(psnr(image, image + 1)) == pytest.approx(20 * math.log10(255))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    small = ["sampler=ddim", "sampler.steps=3", "spacing=trailing", "data.resolution=8"]
    arrays = ["data=arrays", "data.root=nowhere", "data.range=[-3,5]", "data.channels=2"]
    for name, more in (("images", []), ("arrays", arrays)):
        run = run_folder(place, name, *small, *more)
        (run / ".hydra").mkdir()
        shutil.copy(run / "config.yaml", run / ".hydra" / "config.yaml")
    return place


WORDS = ["edit=restore", "operator@edit.posterior.pigdm.operator=downsample", "edit.posterior.pigdm.noise=0.1"]


def restore(monkeypatch: pytest.MonkeyPatch, run: Path, image: Path, output: Path, *words: str) -> dict:
    assert script(["edit", f"run={run}", f"image={image}", f"output={output}", *WORDS, *words], monkeypatch) == 0
    return json.loads((output / "metrics.json").read_text())


def test_several_samples_of_arrays_give_a_mean_a_spread_and_scores(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From whole arrays that are measured here; the scores are those of the files that were written."""
    truths = tmp_path / "whole"
    truths.mkdir()
    for name in "ab":
        np.save(truths / f"{name}.npy", np.random.default_rng(ord(name)).uniform(-3, 5, (2, 8, 8)).astype(np.float32))
    out = tmp_path / "out"
    found = restore(monkeypatch, runs / "arrays", truths, out, "edit.measure=0.1", "num_samples=5", "batch_size=2")
    each = {}
    for name in "ab":
        samples = np.stack([np.load(out / f"{name}_{i}.npy") for i in range(5)])
        np.testing.assert_allclose(np.load(out / "mean" / f"{name}.npy"), samples.mean(0), atol=1e-5)
        np.testing.assert_allclose(np.load(out / "spread" / f"{name}.npy"), samples.std(0, ddof=1), atol=1e-5)
        assert (out / "grid" / f"{name}.png").is_file()
        each[f"{name}.npy"] = scores(torch.tensor(samples), torch.from_numpy(np.load(truths / f"{name}.npy")), (-3, 5))
    assert found["images"].keys() == each.keys()
    for name, scored in each.items():
        assert found["images"][name] == pytest.approx(scored, abs=1e-4)
    assert found["metrics"] == pytest.approx(
        {k: (each["a.npy"][k] + each["b.npy"][k]) / 2 for k in each["a.npy"]}, abs=1e-4
    )
    assert found["better"] == {"psnr": "higher", "nmse": "lower", "crps": "lower"}
    alone = tmp_path / "alone"
    again = restore(
        monkeypatch, runs / "arrays", truths / "b.npy", alone, "edit.measure=0.1", "num_samples=5", "batch_size=2"
    )
    assert again["images"]["b.npy"] == found["images"]["b.npy"], "an image does not depend on those beside it"


def test_a_volume_of_nifti_is_measured_too(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nibabel = pytest.importorskip("nibabel")
    truth = np.random.default_rng(0).uniform(-3, 5, (2, 8, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), tmp_path / "a.nii")
    found = restore(monkeypatch, runs / "arrays", tmp_path / "a.nii", tmp_path / "out", "edit.measure=0.1")
    drawn = torch.from_numpy(np.load(tmp_path / "out" / "a.npy"))
    assert found["metrics"] == pytest.approx(scores(drawn[None], torch.from_numpy(truth), (-3, 5)), abs=1e-4)


def test_measurements_of_images_with_their_truths(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image as a measurement, and floats that no image could hold."""
    small, truths = tmp_path / "small", tmp_path / "truths"
    small.mkdir()
    truths.mkdir()
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 15).save(small / "a.png")
    np.save(small / "b.npy", np.random.default_rng(0).normal(size=(4, 4)))
    for name in "ab":
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8), np.uint8)).save(truths / f"{name}.png")
    out = tmp_path / "out"
    for _ in range(2):  # the folder is replaced
        found = restore(monkeypatch, runs / "images", small, out, f"edit.truth={truths}", "num_samples=2")
    assert found["images"].keys() == {"a.png", "b.npy"}
    assert set(found["metrics"]) == {"psnr", "nmse", "crps", "coverage_0.333"}
    assert Image.open(out / "mean" / "a.png").size == Image.open(out / "b_1.png").size == (8, 8)
    assert json.loads((out / "settings.json").read_text())["files"] == ["a_0.png", "a_1.png", "b_0.png", "b_1.png"]
    assert float(np.load(out / "spread" / "a.npy").max()) < 1, "in the units of [0, 1]"


@pytest.mark.parametrize(
    ("run", "words", "sentence"),
    [
        ("images", ["edit.measure=-1"], "noise is 0 or above, got -1"),
        ("images", ["edit.measure=0.1", "edit.truth=x.npy"], "leave edit.truth out"),
        ("images", ["edit.truth=nowhere"], "edit.truth=nowhere is no file; name the true image"),
        ("images", [], "has 3 x 3 pixels, and this operator measures 4 x 4 pixels of an image of 8 x 8 pixels"),
        ("arrays", ["edit.measure=0.1"], "in.npy has shape [3, 3]"),
        ("arrays", ["edit=restyle"], "this run is of arrays of floats; use edit=restore"),
    ],
)
def test_what_cannot_be_restored_is_said(
    run: str, words: list[str], sentence: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    np.save(tmp_path / "in.npy", np.zeros((4, 4) if "edit.truth=nowhere" in words else (3, 3)))
    line = ["edit", f"run={runs / run}", f"image={tmp_path / 'in.npy'}", f"output={tmp_path / 'out'}", *WORDS, *words]
    if "edit=restyle" in words:
        line = [word for word in line if not word.startswith(("operator@", "edit.", "edit=restore"))]
    assert script(line, monkeypatch) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
