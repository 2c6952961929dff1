"""scripts/edit.py on small untrained models: files in, files out, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import CONF
from model_folders import run_folder
from PIL import Image
from scripts_in_process import script
from tiny_kl import save_tiny

SMALL = ["sampler=ancestral", "sampler.steps=2", "spacing=trailing"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    save_tiny(place / "kl")
    latent = ["data=image_folder", f"data.root={place}", "autoencoder=kl", f"autoencoder.pretrained={place / 'kl'}"]
    for name, more in (
        ("labelled", ["data.resolution=8", "conditioner=label", "guidance=classifier_free"]),
        ("plain", ["data.resolution=8"]),
        ("latent", [*latent, "data.resolution=64", "guidance=none"]),
    ):
        run = run_folder(place, name, *SMALL, *more)
        (run / ".hydra").mkdir()
        shutil.copy(run / "config.yaml", run / ".hydra" / "config.yaml")
    return place


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """20 pixels wide and 12 high, in colour."""
    pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def edit(monkeypatch: pytest.MonkeyPatch, run: Path, image: Path, output: Path, *words: str) -> Path:
    line = ["edit", f"run={run}", f"image={image}", f"output={output}", *words]
    assert script(line, monkeypatch) == 0
    return output


def array(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", ["plain", "latent"])
def test_what_the_mask_keeps_is_the_inputs_to_the_bit_at_any_size(
    name: str, runs: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["edit=inpaint", "mask=[2,3,5,9]", "num_samples=2"]
    folder = edit(monkeypatch, runs / name, image, tmp_path / "out", *words)
    before = array(image) if name == "latent" else np.asarray(Image.open(image).convert("L"))
    variants = [array(folder / f"in_{i}.png") for i in range(2)]
    assert (variants[0] != variants[1]).any()
    for after in variants:
        changed = after != before
        assert changed[2:7, 3:12].any()
        changed[2:7, 3:12] = False
        assert not changed.any()
    alone = edit(monkeypatch, runs / name, image, tmp_path / "one", *words[:2])
    assert (array(alone / "in.png") == variants[0]).all(), "a variant does not depend on how many there are"
    facts = json.loads((folder / "settings.json").read_text())
    assert facts["files"] == ["in_0.png", "in_1.png"]
    assert facts["edit"]["class"].endswith("InpaintEdit")
    assert (folder / "grid" / "in.png").is_file()


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["edit=restyle"], (20, 12)),
        (["edit=outpaint", "edit.pixels=[0,4,6,0]", "edit.repeats=1"], (24, 18)),
        (["edit=outpaint", "edit.zoom=1.5", "edit.repeats=1"], (30, 18)),
        (["edit=upscale"], (40, 24)),
        (["edit=variation"], (20, 12)),
        (["edit=invert", "mask=[0,0,6,6]", "edit.to=0.5"], (20, 12)),
        (["edit=diffedit", "mask=[0,0,6,6]"], (20, 12)),
    ],
    ids=str,
)
def test_results_have_the_size_that_was_asked_for(
    words: list[str], size: tuple[int, int], runs: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = edit(monkeypatch, runs / "plain", image, tmp_path / "out", *words)
    assert Image.open(folder / "in.png").size == size
    if words[0] == "edit=outpaint":
        left, top = (0, 0) if "zoom" not in words[1] else (5, 3)
        grey = np.asarray(Image.open(image).convert("L"))
        assert (array(folder / "in.png")[top : top + 12, left : left + 20] == grey).all()


def test_a_folder_with_its_masks_and_a_blend(
    runs: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for name in ("a", "b"):
        shutil.copy(image, images / f"{name}.png")
        Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((0, 8), (0, 16)))).save(masks / f"{name}.png")
    folder = edit(monkeypatch, runs / "plain", images, tmp_path / "out", "edit=inpaint", f"mask={masks}")
    first, second = (array(folder / f"{name}.png") for name in "ab")
    assert (first == second).all(), "the result of an image does not depend on the others"
    folder = edit(monkeypatch, runs / "plain", images, tmp_path / "blend", "edit=blend", "edit.weights=[1,2]")
    assert json.loads((folder / "settings.json").read_text())["files"] == ["blend.png"]
    with pytest.raises(AssertionError):
        edit(monkeypatch, runs / "plain", images, tmp_path / "blend2", "edit=blend", "edit.weights=[1,2,3]")


def test_a_small_image_is_restored_to_the_models_size(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) * 15).save(tmp_path / "small.png")
    words = ["edit=restore", "operator@edit.posterior.pigdm.operator=downsample"]
    folder = edit(monkeypatch, runs / "plain", tmp_path / "small.png", tmp_path / "out", *words)
    assert Image.open(folder / "small.png").size == (8, 8)


MEASURING = [path.stem for path in sorted((CONF / "guidance").glob("*.yaml")) if "measurement: ???" in path.read_text()]


@pytest.mark.parametrize("name", MEASURING)
def test_every_guidance_by_a_measurement_restores_an_image(
    name: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    more = {"resample": ["every=1", "iterations=2"], "twisted": ["particles=2"], "repaint": ["jump_length=1"]}
    words = [f"edit.posterior.{name}.{key}" for key in [*more.get(name, []), "operator.box=[2,2,4,4]"]]
    folder = edit(
        monkeypatch, runs / "plain", tmp_path / "in.png", tmp_path / "out", "edit=restore",
        f"guidance@edit.posterior={name}", f"operator@edit.posterior.{name}.operator=mask", *words,
    )  # fmt: skip
    restored = array(folder / "in.png")
    assert restored.shape == (8, 8)
    assert (restored[2:6, 2:6] != pixels[2:6, 2:6]).any()


@pytest.mark.parametrize("name", ["psld", "resample"])
def test_a_model_of_latents_restores_what_was_measured_of_images(
    name: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "small.png")
    words = ["edit=restore", f"guidance@edit.posterior={name}", f"operator@edit.posterior.{name}.operator=downsample"]
    more = [f"edit.posterior.{name}.{key}" for key in (["every=1", "iterations=2"] if name == "resample" else [])]
    folder = edit(monkeypatch, runs / "latent", tmp_path / "small.png", tmp_path / "out", *words, *more)
    assert Image.open(folder / "small.png").size == (64, 64)
    line = ["edit", f"run={runs / 'latent'}", f"image={tmp_path / 'small.png'}", "edit=restore"]
    assert script(line, monkeypatch) == 2
    assert "set guidance@edit.posterior=psld or resample" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["image=nowhere.png"], ["image=nowhere.png is no file"]),
        (["edit=inpaint"], ["set mask to a file or [top,left,height,width]"]),
        (["edit=upscale", "mask=[0,0,2,2]"], ["edit=upscale takes no mask"]),
        (["edit=inpaint", "mask=[0,0,12,20]"], ["covers everything"]),
        (["edit=inpaint", "mask=[0,0,13,20]"], ["in an image of 20 x 12 pixels"]),
        (["edit=inpaint", "mask=other.png"], ["mask=other.png is no file"]),
        (["edit.strength=0"], ["edit.strength"]),
        (["edit.strength=1.5"], ["edit.strength"]),
        (["edit.strenght=0.5"], ["did you mean 'edit.strength'"]),
        (["edit=restile"], ["restyle"]),
        (["edit=outpaint"], ["edit.pixels", "edit.zoom"]),
        (["edit=invert", "sampler=ancestral"], ["AncestralSampler draws noise", "sampler=ddim"]),
        (["edit=blend"], ["edit=blend makes one image of several"]),
        (["edit=restore"], ["20 x 12 pixels", "8 x 8"]),
        (["edit=background"], ["give a mask that covers the background"]),
        (["text=a"], ["text"]),
        (["negative=a"], ["give text too"]),
        (["labels=1"], ["this run's model has none"]),
        (["background=whitee"], ["background is a colour name"]),
        (["feather=-1"], ["feather is"]),
        (["mask=[1,2]"], ["mask is a file or folder of masks"]),
    ],
    ids=str,
)
def test_wrong_requests_are_one_sentence(
    words: list[str],
    parts: list[str],
    runs: Path,
    image: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert script(["edit", f"run={runs / 'plain'}", f"image={image}", f"output={output}", *words], monkeypatch) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    for part in parts:
        assert part in line
    assert not output.exists()
    assert not list(tmp_path.glob(".*part"))


def test_a_model_of_classes_is_told_one(
    runs: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["edit", f"run={runs / 'labelled'}", f"image={image}", f"output={tmp_path / 'out'}"]
    assert script(line, monkeypatch) == 2
    assert "set labels to the class of the result" in capsys.readouterr().err
    found = edit(
        monkeypatch, runs / "labelled", image, tmp_path / "a", "edit=background", "edit.source=3", "labels=[4,5]",
        "num_samples=2", "edit.repeats=1",
    )  # fmt: skip
    assert len(json.loads((found / "settings.json").read_text())["files"]) == 2


def test_a_folder_of_something_else_is_left_alone(
    runs: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert script(["edit", f"run={runs / 'plain'}", f"image={image}", f"output={tmp_path / 'mine'}"], monkeypatch) == 2
    assert "holds thesis.txt" in capsys.readouterr().err
    for _ in range(2):  # its own results may be replaced
        edit(monkeypatch, runs / "plain", image, tmp_path / "own")
