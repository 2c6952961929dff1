"""The studio's page in a real browser: what a person does there, and the files and pixels that come of it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, running
from PIL import Image
from studio_page import (
    OPENED,
    assert_made_by_their_command,
    choose,
    command,
    drag,
    drawn,
    folders_of,
    make_runs,
    new_folders,
    opened,
    pick,
    pipeline,
    pixels,
    said,
    show,
    studio,
    walk,
)

from diffusion.experiment.studio import png

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page")
    make_runs(place / "runs")
    return place


@pytest.fixture(scope="module")
def port(place: Path) -> Iterator[int]:
    """Of a studio on this machine."""
    pytest.importorskip("gradio")
    with studio(place, f'pipelines=["{pipeline(place / "runs")}"]') as (port, line):
        assert line == f"studio: http://127.0.0.1:{port}\n"
        yield port


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """All tests share one browser, and its loop."""
    with running(tmp_path_factory.mktemp("browser")) as chromium:
        yield chromium


@walk
async def test_two_people_draw_stop_are_refused_and_restore(
    chromium: Browser, port: int, place: Path, tmp_path: Path
) -> None:
    runs = place / "runs"
    one, two = await opened(chromium, port, runs / "labelled"), await opened(chromium, port, runs / "plain")
    outside = "performance.getEntriesByType('resource').map(e => new URL(e.name).host)"
    assert set(await one.js(outside)) == {f"127.0.0.1:{port}"}, "nothing of another site"
    await one.until("!!document.querySelector('#labels input')")
    await two.until("!document.querySelector('#labels')")

    await one.click("#draw")  # each has images of the own run, one drawing after the other
    await two.click("#draw")
    for tab in (one, two):
        await said(tab, "images in")
        await tab.until("document.querySelectorAll('#gallery .thumbnail-item img').length === 4")
    files = sorted((place / "history").glob("*/*.png"))
    records = [png.read(file) for file in files]
    assert sorted(Path(record["settings"]["run"]).name for record in records) == ["labelled"] * 4 + ["plain"] * 4

    await one.click("#gallery .thumbnail-item")  # an image says how it is made, and is made again
    await said(one, "scripts/sample.py", "#record")
    await one.click("#again")
    await said(one, "every pixel is the same")

    await two.fill("#steps input", "1000")
    await two.fill("#count input[type=number]", "64")
    await two.click("#draw")
    await said(two, "step")
    await two.click("#stop")
    await said(two, "Stopped")
    assert sorted((place / "history").glob("*/*.png")) == files

    await two.fill("#steps input", "0")
    await two.click("#draw")
    await said(two, "steps", "#status .wrong")

    picture = tmp_path / "no_image.png"
    picture.write_text("no image")
    await two.upload("#restore input[type=file]", picture)
    assert "no_image.png is no image that can be read" in await said(two, "no image", "#status .wrong")

    label = next(file for file, record in zip(files, records, strict=True) if "/labelled" in record["settings"]["run"])
    image, record = Image.open(label), png.read(label)
    record["settings"] |= {"seed": 77, "steps": 3, "labels": ["3"], "count": 2}
    png.save(image, tmp_path / "dropped.png", record)
    two = await opened(chromium, port)
    await two.upload("#restore input[type=file]", tmp_path / "dropped.png")
    await two.until("document.querySelector('#seed input').value === '77'")
    files = await drawn(two, place, "#draw")
    assert png.read(files[0])["settings"] == record["settings"], "what was dropped is what is drawn"


@walk
async def test_a_prompt_that_cannot_be_drawn_is_a_sentence(chromium: Browser, port: int, place: Path) -> None:
    tab = await opened(chromium, port, place / "runs" / "worded")
    await tab.until("!!document.querySelector('#text textarea')")
    before = folders_of(place)
    await tab.click("#draw")
    await said(tab, "this run's model draws what a prompt says; write one", "#status .wrong")
    assert folders_of(place) == before
    await tab.fill("#negative textarea, #negative input", "blue")
    await tab.fill("#text textarea", 'a "red" heart, $5 {it\'s}')  # the studio goes on, and any words are a prompt
    files = await drawn(tab, place, "#draw")
    settings = png.read(files[3])["settings"]
    assert (settings["text"], settings["negative"]) == ('a "red" heart, $5 {it\'s}', "blue")
    assert len({pixels(file).tobytes() for file in files}) == 4


@walk
async def test_the_verbs_under_an_image(chromium: Browser, port: int, place: Path, tmp_path: Path) -> None:
    """Each works on what the one before it made."""
    tab = await opened(chromium, port, place / "runs" / "labelled")
    await tab.until("!!document.querySelector('#labels input')")
    await tab.fill("#seed input", "5")
    files = await drawn(tab, place, "#draw")
    chosen, seed = files[1], 5
    for button, edit, options, count, size in (
        ("#vary-subtle", "restyle", {"strength": 0.3}, 4, (8, 8)),
        ("#vary-strong", "restyle", {"strength": 0.7}, 4, (8, 8)),
        ("#upscale-2x", "upscale", {"factor": 2}, 1, (16, 16)),
        ("#zoom-out", "outpaint", {"zoom": 1.5}, 1, (24, 24)),
        ("#pan-right", "outpaint", {"pixels": [0, 12, 0, 0]}, 1, (36, 24)),
    ):
        await pick(tab, int(chosen.stem))
        await tab.until(f"document.querySelector('{button}')?.getBoundingClientRect().width > 0")
        await said(tab, f"# image {int(chosen.stem)} of", "#record")
        source, seed = chosen, seed + 1
        files = await drawn(tab, place, button)
        await tab.until("!document.querySelector('#gallery .preview')")
        settings = png.read(files[-1])["settings"]
        assert (settings["edit"], settings["options"], settings["seed"]) == (edit, options, seed)
        assert (settings["labels"], settings["image"]) == (["1"], str(source)), "the class of the image alone"
        assert [Image.open(file).size for file in files] == [size] * count
        assert len({pixels(file).tobytes() for file in files}) == count
        chosen = files[-1]
    np.testing.assert_array_equal(pixels(chosen)[:, :24], pixels(source))
    assert_made_by_their_command(files, tmp_path / "again")
    await tab.click("#gallery .thumbnail-item")
    await tab.click("#again")
    await said(tab, "every pixel is the same")
    await show(tab, "History")  # what is chosen there is not what is chosen here
    await pick(tab, 2, "#past")
    await said(tab, "scripts/edit.py", "#record-past")
    await show(tab, "Draw")
    files = await drawn(tab, place, "#vary-subtle")
    assert png.read(files[0])["settings"]["image"] == str(chosen)


@walk
async def test_a_mask_that_is_drawn_by_hand(chromium: Browser, port: int, place: Path, tmp_path: Path) -> None:
    tab = await opened(chromium, port, place / "runs" / "plain")
    (source, *_) = await drawn(tab, place, "#draw")
    await tab.click("#gallery .thumbnail-item")
    await tab.click("#paint")
    await tab.until("document.querySelector('#editor canvas')?.getBoundingClientRect().width > 100")
    await tab.click("#cover")
    await said(tab, "nothing is covered", "#edited .wrong")
    await drag(tab, "#editor canvas", (0.5, 0.4), (0.5, 0.6))
    files = await drawn(tab, place, "#cover", status="#edited")
    record = png.read(files[0])
    may = pixels(Path(record["settings"]["mask"])) > 127
    assert may.shape == (8, 8)
    assert 0 < may.sum() < 32
    assert may[2:6, 2:6].any(), "where the brush was"
    assert (record["settings"]["edit"], record["settings"]["image"]) == ("inpaint", str(source))
    for file in files:
        np.testing.assert_array_equal(pixels(file)[~may], pixels(source)[~may])
        assert (pixels(file)[may] != pixels(source)[may]).any()
    assert_made_by_their_command(files, tmp_path / "again")


@walk
async def test_two_runs_are_compared_on_the_same_seeds(
    chromium: Browser, port: int, place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "runs" / "labelled", place / "runs" / "twin")
    tab = await opened(chromium, port, place / "runs" / "labelled")
    await tab.fill("#seed input", "11")
    await show(tab, "Compare")
    await tab.click("#both")
    await said(tab, "no other run is chosen", "#compared .wrong")
    before, folders = folders_of(place), list[Path]()
    await choose(tab, place / "runs" / "worded", "#other")
    await tab.click("#both")
    await said(tab, "draws what a prompt says; write one", "#compared .wrong")
    assert folders_of(place) == before, "refused before the first run has drawn"
    for other in ("plain", "twin"):
        await choose(tab, place / "runs" / other, "#other")
        await tab.click("#both")
        folders += await new_folders(tab, place, before, 2)
        before |= set(folders)
        for side in ("#one", "#two"):
            await tab.until(f"document.querySelectorAll('{side} img').length === 4")
    first, plain, again, twin = (sorted(folder.glob("*.png")) for folder in folders)
    for files, run in ((first, "labelled"), (plain, "plain"), (again, "labelled"), (twin, "twin")):
        settings = png.read(files[0])["settings"]
        assert (Path(settings["run"]).name, settings["seed"], settings["count"]) == (run, 11, 4)
    for one, other, own in zip(first, twin, plain, strict=True):
        np.testing.assert_array_equal(pixels(one), pixels(other), "the same weights draw the same")
        assert (pixels(one) != pixels(own)).any()
    assert_made_by_their_command(plain, tmp_path / "again")


@walk
async def test_a_run_that_is_removed_while_it_draws(chromium: Browser, port: int, place: Path) -> None:
    run = Path(shutil.copytree(place / "runs" / "plain", place / "runs" / "short"))
    tab = await opened(chromium, port, run)
    await tab.fill("#steps input", "400")
    before = folders_of(place)
    await tab.click("#draw")
    await said(tab, "step")
    shutil.rmtree(run)
    await said(tab, "images in")
    (folder,) = folders_of(place) - before
    assert len(list(folder.glob("*.png"))) == 4, "what is loaded draws on"
    await tab.click("#gallery .thumbnail-item")
    await tab.click("#again")
    await said(tab, "short does not exist", "#status .wrong")
    await tab.js("document.querySelector('#status .wrong').dataset.old = true")
    await tab.click("#draw")
    await said(tab, "short does not exist", "#status .wrong:not([data-old])")
    await choose(tab, place / "runs" / "plain")
    await tab.until("!document.querySelector('#status .wrong')")
    assert len(await drawn(tab, place, "#draw")) == 4, "it goes on"


@walk
async def test_a_pipeline(chromium: Browser, port: int, place: Path, tmp_path: Path) -> None:
    tab = await opened(chromium, port)
    words = pipeline(place / "runs")
    assert await tab.js("document.querySelector('#run input').value") == words, "it stands first"
    await tab.until("!document.querySelector('#steps')")
    files = await drawn(tab, place, "#draw")
    assert [Image.open(file).size for file in files] == [(16, 16)] * 4
    assert png.read(files[0])["settings"]["run"] == words
    assert_made_by_their_command(files, tmp_path / "again")
    await tab.click("#gallery .thumbnail-item")
    await tab.click("#vary-subtle")
    await said(tab, "an edit works with one run", "#status .wrong")


@pytest.fixture
def shared(port: int, place: Path) -> Iterator[tuple[int, str]]:
    """A studio that others reach, on the same history -> its port and its token."""
    with studio(place, "host=0.0.0.0") as (other, line):
        yield other, line.rpartition("the token ")[2].partition(" ")[0]


@walk
async def test_others_need_the_token_and_see_the_history(
    chromium: Browser, port: int, place: Path, shared: tuple[int, str]
) -> None:
    """A studio that was started anew, on the history of another."""
    (other, token), run = shared, place / "runs" / "labelled"
    assert len(token) >= 16
    files = await drawn(await opened(chromium, port, run), place, "#draw")
    tab = await chromium.tab()
    await tab.open(f"http://127.0.0.1:{other}", "!!document.querySelector('input[type=password]')")
    assert not await tab.js("!!document.querySelector('#draw')")
    for password, then in (("wrong", "document.body.innerText.includes('ncorrect')"), (token, OPENED)):
        await tab.fill("input:not([type=password]), textarea", "anyone")
        await tab.fill("input[type=password]", password)
        await tab.click("button")
        await tab.until(then)
    await show(tab, "History")
    await tab.until("document.querySelectorAll('#past img').length >= 4")
    await tab.click("#past .thumbnail-item")
    command = await said(tab, "scripts/sample.py", "#record-past")
    assert "".join(png.read(files[0])["command"].split()) in "".join(command.split())
    await tab.click("#reuse")
    await tab.until(f"document.querySelector('#run input').value === {str(run)!r}")


def test_a_port_in_use_is_one_sentence(port: int, place: Path) -> None:
    ended = subprocess.run(command(place, port), cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith(f"error: the page cannot be opened at 127.0.0.1:{port}")
