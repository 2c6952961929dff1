"""The studio without its page: a drawing says how it is made again, and that makes it again to the bit."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_folders import run_folder
from PIL import Image
from scripts_in_process import run_script

from diffusion.errors import ConfigError, DataError
from diffusion.experiment.studio import card, form, masks, png, verbs
from diffusion.experiment.studio.desk import STOPPED, Desk, View
from diffusion.experiment.studio.drawing import Artist, changed
from diffusion.experiment.studio.history import History
from diffusion.experiment.studio.settings import LATER, Settings
from diffusion.experiment.studio.watch import Progress, Stopped

SMALL = ["sampler=ddim", "sampler.steps=4", "data.resolution=8", "spacing=trailing"]
WORDS = ["text_encoder.dim=8", "text_encoder.pooled_dim=6", "text_encoder.depth=1", "text_encoder.heads=2"]
RUNS = {
    "labelled": ["conditioner=label", "guidance=[classifier_free,clip]"],
    "free": ["conditioner=label"],
    "plain": ["conditioner=none"],
    "worded": [
        "conditioner=text",
        *WORDS,
        "data=emoji",
        "data.resolution=32",
        "network.attention=[]",
        "guidance=classifier_free",
    ],
    "styled": [
        "conditioner=styled_text",
        "conditioner.parts.style.widths=[4]",
        *WORDS,
        "data=emoji",
        "data.resolution=32",
        "network.attention=[]",
        "guidance=classifier_free",
        "guidance.classifier_free.scale={text: 2.0, style: 1.5}",
    ],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("studio") / "runs"
    for name, overrides in RUNS.items():
        run = run_folder(place, name, *SMALL, *overrides)
        (run / ".hydra").mkdir()
        shutil.copy(run / "config.yaml", run / ".hydra" / "config.yaml")
    return place


@pytest.fixture(scope="module")
def artist() -> Artist:
    return Artist()


@pytest.fixture
def desk(runs: Path, artist: Artist, tmp_path: Path) -> Desk:
    desk = Desk(runs, History(tmp_path / "history"))
    desk.artist = artist  # with the models that it has loaded
    return desk


def views(desk: Desk, settings: Settings) -> list[View]:
    return list(desk.draw(settings, desk.ticket()))


def pixels(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_the_runs_that_draw_and_what_they_read(runs: Path) -> None:
    assert {Path(run).name for run in card.find(runs)} == set(RUNS)
    reads = {name: card.read(str(runs / name)) for name in RUNS}
    assert {name: one.reads for name, one in reads.items()} == {
        "labelled": "labels", "free": "labels", "plain": "", "worded": "text",
        "styled": "text",
    }  # fmt: skip
    assert {name: one.scale for name, one in reads.items()} == {
        "labelled": ("guidance.classifier_free.scale", 1.5), "free": ("guidance.classifier_free.scale", 1.0),
        "plain": None, "worded": ("guidance.classifier_free.scale", 1.5), "styled": None,
    }  # fmt: skip
    assert {name: (one.styled, one.stylize) for name, one in reads.items() if one.styled} == {"styled": (True, 1.5)}
    assert (reads["labelled"].sampler, reads["labelled"].steps) == ("DDIM", 4)


@pytest.mark.parametrize(
    ("run", "more"),
    [
        ("labelled", {"labels": ("3", "7"), "scale": 3.0, "sampler": "heun", "steps": 3}),
        ("free", {"scale": 2.0}),
        ("plain", {"seed": 2**40}),
        ("worded", {"text": 'it\'s a "red", $5 {heart}', "negative": "blue, [green]", "scale": 2.5}),
    ],
)
def test_an_image_is_made_again_alone_and_by_its_command(
    run: str, more: dict, runs: Path, desk: Desk, tmp_path: Path
) -> None:
    *_, last = views(desk, Settings(str(runs / run), count=6, **more))
    assert (last.wrong, len(last.files)) == (False, 6), last.sentence
    record = png.read(last.files[5])
    assert (record["number"], record["seed"], changed(record)) == (5, more.get("seed", 0), None)
    assert Settings.of(record["settings"]) == Settings(str(runs / run), count=6, **more)
    assert desk.again(last.files[5])[1], "drawn without the others"
    words = shlex.split(record["command"])
    assert words[:2] == ["python", "scripts/sample.py"]
    run_script(shlex.join([*words[1:], f"output={tmp_path / 'again'}"]))
    for i, file in enumerate(last.files):
        np.testing.assert_array_equal(pixels(tmp_path / "again" / f"{i:06d}.png"), pixels(file))
    assert len({pixels(file).tobytes() for file in last.files}) == 6


@pytest.mark.slow
def test_a_style_and_a_spread_are_in_the_command_and_in_edits(runs: Path, desk: Desk, tmp_path: Path) -> None:
    kept = []
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 9, 255))):
        Image.new("RGBA", (40, 24), (*colour, 200)).save(tmp_path / f"{name}.png")
        kept.append(desk.taken(str(tmp_path / f"{name}.png")))
        assert desk.taken(kept[-1]) == kept[-1]
    more: dict[str, Any] = {"text": "a cat", "count": 2, "style_reference": tuple(kept)}
    settings = Settings(str(runs / "styled"), style_weight=1.5, stylize=3.0, chaos=0.5, **more)
    *_, last = views(desk, settings)
    assert not last.wrong, last.sentence
    record = png.read(last.files[1])
    assert Settings.of(record["settings"]) == settings
    assert (record["facts"]["stylize"], record["facts"]["chaos"], record["facts"]["style_weight"]) == (3.0, 0.5, 1.5)
    assert changed(record) is None
    assert desk.again(last.files[1])[1]
    run_script(shlex.join([*shlex.split(record["command"])[1:], f"output={tmp_path / 'again'}"]))
    np.testing.assert_array_equal(pixels(tmp_path / "again" / "000001.png"), pixels(last.files[1]))
    known = card.read(settings.run)
    values = form.values_of(settings, known)
    assert form.settings_of([values[name] for name in form.FIELDS], desk.taken).words(known) == [
        *settings.words(known), f"sampler.steps={known.steps}"
    ]  # fmt: skip
    plain = form.settings_of([{**values, "style_reference": None}[name] for name in form.FIELDS])
    assert (plain.style_reference, plain.style_weight, plain.stylize) == ((), None, None)

    vary = verbs.verb("Vary subtle", last.files[1])
    assert vary.style_reference == tuple(kept)
    *_, edit = views(desk, replace(vary, count=1))
    *_, other = views(desk, replace(vary, count=1, style_reference=(), style_weight=None, stylize=None))
    assert not edit.wrong, edit.sentence
    assert (pixels(edit.files[0]) != pixels(other.files[0])).any()
    record = png.read(edit.files[0])
    run_script(shlex.join([*shlex.split(record["command"])[1:], f"output={tmp_path / 'edit'}"]))
    np.testing.assert_array_equal(pixels(tmp_path / "edit" / record["file"]), pixels(edit.files[0]))
    Image.new("L", (8, 8)).save(kept[0])
    assert "is gone or has changed" in str(changed(record))


def test_an_image_of_an_earlier_version_has_its_settings() -> None:
    settings = Settings("run", text="a cat", seed=3)
    earlier = {key: value for key, value in settings.plain().items() if key not in LATER}
    assert Settings.of(earlier) == settings


def test_an_edit_is_made_again_by_its_command(runs: Path, desk: Desk, tmp_path: Path) -> None:
    *_, last = views(desk, Settings(str(runs / "labelled"), labels=("3",), count=2))
    kept = {"run": str(runs / "labelled"), "labels": ("3",), "image": last.files[1], "seed": 1}
    *_, edit = views(desk, Settings(edit="restyle", options={"strength": 0.5}, count=2, **kept))
    assert not edit.wrong, edit.sentence
    record = png.read(edit.files[1])
    assert changed(record) is None
    assert desk.again(edit.files[1])[1]
    run_script(shlex.join([*shlex.split(record["command"])[1:], f"output={tmp_path / 'again'}"]))
    np.testing.assert_array_equal(pixels(tmp_path / "again" / record["file"]), pixels(edit.files[1]))
    Image.new("L", (8, 8)).save(last.files[1])
    assert "is gone or has changed" in str(changed(record))


def test_progress_and_previews(runs: Path, artist: Artist) -> None:
    seen: list[Progress] = []
    drawn = artist.draw(Settings(str(runs / "plain"), count=6), seen.append)
    assert [(one.step, one.steps, one.first) for one in seen] == [
        (i, 4, first) for first in (0, 4) for i in (1, 2, 3, 4)
    ]
    assert [one.share for one in seen] == [i / 8 for i in range(1, 9)]
    previews = seen[-1].preview()
    assert len(previews) == 2, "those of the last batch that are wanted"
    assert previews[1].tobytes() == drawn.images[5].tobytes(), "the last prediction of x_0 is the sample of DDIM"


def test_a_drawing_that_is_stopped_keeps_nothing(runs: Path, desk: Desk, artist: Artist) -> None:
    ticket = desk.ticket()
    desk.stop(ticket)
    *_, last = desk.draw(Settings(str(runs / "plain")), ticket)
    assert (last.sentence, last.files, desk.history.recent(9)) == (STOPPED, [], [])
    desk.stop(ticket)  # over: nothing happens

    def end(progress: Progress) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        artist.draw(Settings(str(runs / "plain")), end)
    assert not views(desk, Settings(str(runs / "plain"), count=1))[-1].wrong, "it goes on"


@pytest.mark.parametrize(
    ("run", "more", "sentence"),
    [
        ("labelled", {"text": "a cat"}, "reads classes and no prompt"),
        ("plain", {"text": "a cat"}, "reads no condition and no prompt"),
        ("plain", {"labels": ("1",)}, "has no classes"),
        ("worded", {"text": "a", "style_reference": ("a.png",)}, "not in the history"),
        ("plain", {"chaos": 0.5}, "has no condition that chaos could hide"),
        ("labelled", {"chaos": 1.5}, "chaos is a number from 0 to 1"),
        ("styled", {"text": "a", "stylize": 2.0}, "there is none; give style_reference"),
        ("worded", {}, "draws what a prompt says; write one"),
        ("labelled", {"labels": ("cat",)}, "got 'cat'"),
        ("labelled", {"labels": ("10",)}, "0 to 9"),
        ("labelled", {"seed": -1}, "seed is a whole number from 0"),
        ("labelled", {"steps": 0}, "sampler.steps"),
        ("labelled", {"sampler": "dddim"}, "did you mean|nearest first: ddim"),
        ("labelled", {"count": 0}, "from 1 to 64 images"),
        ("gone", {}, "does not exist"),
        ("labelled", {"edit": "restyle", "image": "nowhere.png"}, "not in the history"),
        ("../history", {}, "is not below runs="),
        ("labelled", {"edit": "restyle", "options": {"_target_": "os.system"}}, "edit._target_ is a number"),
        ("labelled", {"edit": "restyle", "options": {"strength": {"_target_": "os.system"}}}, "is a number"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(run: str, more: dict, sentence: str, runs: Path, desk: Desk) -> None:
    *_, last = views(desk, Settings(str(runs / run), **more))
    assert last.wrong
    assert last.done
    assert any(part in last.sentence for part in sentence.split("|")), last.sentence
    assert "\n" not in last.sentence
    assert "Traceback" not in last.sentence


def test_a_run_that_changed_or_is_gone(runs: Path, tmp_path: Path, artist: Artist) -> None:
    run = Path(shutil.copytree(runs / "plain", tmp_path / "run"))
    history = History(tmp_path / "history")
    desk = Desk(tmp_path, history)
    (file,) = history.keep(artist.draw(Settings(str(run), count=1)))
    assert desk.record_of(str(file))[1] == ""
    checkpoint = run / "checkpoints" / "last.ckpt"
    saved = torch.load(checkpoint, weights_only=True)
    first = next(name for name in saved["state_dict"] if name.startswith("average."))
    saved["state_dict"][first] = saved["state_dict"][first] + 1
    torch.save(saved, checkpoint)
    assert "now has other weights" in desk.record_of(str(file))[1]
    assert artist.draw(Settings(str(run), count=1)).records[0]["run_sha256"] != png.read(file)["run_sha256"]
    shutil.rmtree(run)
    assert desk.record_of(str(file))[1].startswith("the run that drew this image is gone")
    assert History(tmp_path / "history").recent(9) == [file], "the history is still there"


def test_what_is_no_image_of_the_studio(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.new("L", (4, 4)).save(tmp_path / "plain.png")
    png.save(Image.new("L", (4, 4)), tmp_path / "half.png", {"settings": {}})
    later = {"settings": {"run": "a", "new": 1}, "number": 0, "seed": 0, "facts": {}}
    later |= dict.fromkeys(["command", "version", "file", "run_sha256"], "")
    png.save(Image.new("L", (4, 4)), tmp_path / "other.png", later)
    desk = Desk(tmp_path, History(tmp_path))
    for name, sentence in (
        ("text", "is no image that can be read"), ("plain", "does not say how it was made"), ("half", "is damaged"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=sentence):
            png.read(tmp_path / f"{name}.png")
        assert sentence in desk.record_of(str(tmp_path / f"{name}.png"))[1]
    assert "another version" in desk.record_of(str(tmp_path / "other.png"))[1]


def test_settings_and_fields_there_and_back(runs: Path) -> None:
    for name, more in (("labelled", {"labels": ("3",), "scale": 2.0}), ("worded", {"text": "a", "negative": "b"})):
        settings = Settings(str(runs / name), steps=7, seed=5, **more)
        assert Settings.of(json.loads(json.dumps(settings.plain()))) == settings
        known = card.read(settings.run)
        values = form.values_of(settings, known)
        back = form.settings_of([values[name] for name in form.FIELDS])
        assert back.words(known)[:-1] == settings.words(known)[: len(back.words(known)) - 1]


def test_an_input_is_kept_once(tmp_path: Path) -> None:
    history = History(tmp_path)
    one, other = (history.take_in(Image.new("L", (4, 4), value)) for value in (1, 2))
    assert one != other == history.take_in(Image.new("L", (4, 4), 2))
    assert history.recent(9) == []


@pytest.mark.parametrize("name", ["Vary subtle", "Upscale 2x", "Zoom out", "Pan right"])
def test_a_verb_edits_an_image_under_its_own_class(name: str, runs: Path, desk: Desk) -> None:
    *_, last = views(desk, Settings(str(runs / "labelled"), labels=("3", "7"), count=2, seed=8))
    settings = verbs.verb(name, last.files[1])
    assert (settings.labels, settings.seed, settings.image) == (("7",), 9, last.files[1])
    *_, edit = views(desk, settings)
    assert not edit.wrong, edit.sentence
    size = {"Vary subtle": (8, 8), "Upscale 2x": (16, 16), "Zoom out": (12, 12), "Pan right": (12, 8)}[name]
    assert {Image.open(file).size for file in edit.files} == {size}
    if name == "Pan right":
        np.testing.assert_array_equal(pixels(edit.files[0])[:, :8], pixels(last.files[1]))


def test_what_a_brush_leaves_alone_stays_to_the_bit(runs: Path, desk: Desk) -> None:
    *_, last = views(desk, Settings(str(runs / "plain"), count=1))
    large, times = masks.enlarged(Image.open(last.files[0]))
    assert (large.size, times) == ((512, 512), 64)
    layer = np.zeros((512, 512, 4), dtype=np.uint8)
    layer[: 3 * 64, 30 : 4 * 64 + 10, 3] = 255  # more than half of the first column's squares, little of the fifth's
    mask = masks.mask_of({"layers": [layer]}, (8, 8))
    assert mask is not None
    expected = np.zeros((8, 8), dtype=bool)
    expected[:3, :4] = True
    np.testing.assert_array_equal(np.asarray(mask) > 127, expected)
    kept = str(desk.history.take_in(mask))
    *_, edit = views(desk, verbs.covered(Settings(str(runs / "plain"), seed=1), last.files[0], kept, 1.0))
    assert not edit.wrong, edit.sentence
    for file in edit.files:
        np.testing.assert_array_equal(pixels(file)[~expected], pixels(last.files[0])[~expected])
        assert (pixels(file)[expected] != pixels(last.files[0])[expected]).any()
    assert masks.mask_of({"layers": []}, (8, 8)) is masks.mask_of(None, (8, 8)) is None
    with pytest.raises(ConfigError, match="covers everything"):
        masks.mask_of({"layers": [np.full((512, 512, 4), 255, dtype=np.uint8)]}, (8, 8))
    with pytest.raises(ConfigError, match="nothing is covered"):
        verbs.covered(Settings(str(runs / "plain")), last.files[0], None, 1.0)
