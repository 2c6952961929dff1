"""The studio with several runs that draw together: progress through the stages, and images that are made again."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from model_folders import stages
from omegaconf import OmegaConf
from PIL import Image
from scripts_in_process import run_script

from diffusion.errors import ConfigError
from diffusion.experiment.studio import card, form, png
from diffusion.experiment.studio.desk import Desk, View
from diffusion.experiment.studio.drawing import Artist, changed
from diffusion.experiment.studio.history import History
from diffusion.experiment.studio.serve import start
from diffusion.experiment.studio.settings import Settings
from diffusion.experiment.studio.watch import Progress

STAGES = {
    "unclip": {"prior": "prior", "decoder": "decoder", "upsamplers.x2": "large"},
    "cascade": {"base": "base", "upsamplers.x2": "large"},
    "refine": {"base": "base", "refiner": "other"},
}


def pipeline(runs: Path, kind: str) -> str:
    return f"pipeline={kind} " + " ".join(f"pipeline.{key}.run={runs / run}" for key, run in STAGES[kind].items())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("studio") / "runs"
    stages(place)
    return place


def drawn(desk: Desk, settings: Settings) -> View:
    return list(desk.draw(settings, desk.ticket()))[-1]


@pytest.mark.slow
def test_images_of_a_pipeline_are_made_again_alone_and_by_their_command(runs: Path, tmp_path: Path) -> None:
    words = pipeline(runs, "unclip")
    desk = Desk(runs, History(tmp_path / "history"), [words])
    assert desk.runs()[0] == words
    settings = Settings(words, text="a cat", count=3, seed=4)
    last = drawn(desk, settings)
    assert (last.wrong, len(last.files)) == (False, 3), last.sentence
    record = png.read(last.files[2])
    assert changed(record) is None
    assert Settings.of(record["settings"]) == settings
    assert desk.again(last.files[2])[1]
    run_script(shlex.join([*shlex.split(record["command"])[1:], f"output={tmp_path / 'again'}"]))
    for i, file in enumerate(last.files):
        again = np.asarray(Image.open(tmp_path / "again" / f"{i:06d}.png"))
        np.testing.assert_array_equal(again, np.asarray(Image.open(file)))


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("unclip", [2, 2, 2, 2, 2, 2, 2, 2]), ("cascade", [2, 2, 2, 2])],  # two candidates of the prior
)
@pytest.mark.slow
def test_steps_of_all_stages_are_counted(kind: str, steps: list[int], runs: Path) -> None:
    seen: list[Progress] = []
    text = "a cat" if kind == "unclip" else None
    Artist().draw(Settings(pipeline(runs, kind), text=text, count=4), seen.append)
    assert [one.steps for one in seen] == steps
    assert [one.share for one in seen] == pytest.approx([(i + 1) / len(steps) for i in range(len(steps))])
    assert len(seen[0].preview()) == (0 if kind == "unclip" else 4), "an embedding is no image"
    assert seen[-1].preview()[3].size == (16, 16)


def test_a_refiner_takes_over_in_the_middle(runs: Path) -> None:
    seen: list[Progress] = []
    Artist().draw(Settings(pipeline(runs, "refine"), count=6), seen.append)
    shares = [one.share for one in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert {one.first for one in seen} == {0, 4}


def test_what_a_pipeline_reads_and_its_fields(runs: Path) -> None:
    chain, cascade = (card.read(pipeline(runs, kind)) for kind in ("unclip", "cascade"))
    assert (chain.reads, cascade.reads) == ("text", "labels")
    assert chain.sentence.startswith("draws what a prompt says in stages")
    assert chain.sentence.endswith(": prior, decoder, upsamplers.x2")
    settings = Settings(chain.run, text="a cat", seed=3)
    values = form.values_of(settings, chain)
    assert form.settings_of([values[name] for name in form.FIELDS]) == settings


def test_what_a_pipeline_cannot_do_is_one_sentence(runs: Path, tmp_path: Path) -> None:
    words = pipeline(runs, "cascade")
    desk = Desk(runs, History(tmp_path / "history"), [words])
    for settings, sentence in (
        (Settings(words, sampler="ddim"), "a sampler, steps and a scale for each stage"),
        (Settings(words, edit="restyle"), "an edit works with one run"),
        (Settings(words, text="a cat"), "reads classes and no prompt"),
        (Settings(pipeline(runs, "unclip"), text="a"), "was not opened with pipeline=unclip"),
    ):
        view = drawn(desk, settings)
        assert view.wrong
        assert sentence in view.sentence
    cfg = {"runs": str(runs), "output": str(tmp_path), "host": "127.0.0.1", "port": 0, "token": None, "batch_size": 4}
    for given, sentence in (
        ("pipeline=cascade", "pipeline.base has no run"),
        ("pipeline=casc", "cascade"),
        ("pipeline=cascade 'pipeline.base", "cannot be read as a command line"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            start(OmegaConf.create({**cfg, "pipelines": [given]}), str(tmp_path))


@pytest.mark.slow
def test_a_run_that_is_removed_while_it_draws(runs: Path, tmp_path: Path) -> None:
    """What is loaded draws on; the next drawing is refused in one sentence."""
    for name in ("base", "large"):
        shutil.copytree(runs / name, tmp_path / "runs" / name)
    words = pipeline(tmp_path / "runs", "cascade")
    history = History(tmp_path / "history")

    def remove(progress: Progress) -> None:
        shutil.rmtree(tmp_path / "runs" / "base", ignore_errors=True)

    for settings in (Settings(words, count=1), Settings(str(tmp_path / "runs" / "base"), count=1)):
        (file,) = history.keep(Artist().draw(settings, remove))
        assert str(changed(png.read(file))).startswith("the run that drew this image is gone")
        desk = Desk(tmp_path / "runs", history, [words])
        view = drawn(desk, settings)
        assert view.wrong
        assert "does not exist" in view.sentence
        shutil.copytree(runs / "base", tmp_path / "runs" / "base")
        assert not drawn(desk, settings).wrong, "it goes on"
