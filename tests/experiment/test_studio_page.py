"""The studio's page in a real browser: draw, stop, a wrong request, an image dropped back in, two people at once."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import BROWSER, REQUIRED, Tab, browser
from model_folders import run_folder
from PIL import Image

from diffusion.experiment.studio import png

ROOT = Path(__file__).parents[2]
SMALL = ["sampler=ddim", "sampler.steps=4", "data.resolution=8", "spacing=trailing"]
RUNS = {"labelled": ["conditioner=label", "guidance=[classifier_free,clip]"], "plain": ["conditioner=none"]}
DONE = "/images? in /.test(document.querySelector('#status').innerText)"
WRONG = "document.querySelector('#status .wrong')?.innerText"
SHOWN = "document.querySelectorAll('#gallery .thumbnail-item img').length"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page")
    for name, overrides in RUNS.items():
        run = run_folder(place / "runs", name, *SMALL, *overrides)
        (run / ".hydra").mkdir()
        shutil.copy(run / "config.yaml", run / ".hydra" / "config.yaml")
    return place


def command(place: Path, port: int) -> list[str]:
    words = [f"runs={place / 'runs'}", f"output={place / 'history'}", f"port={port}"]
    return [sys.executable, str(ROOT / "scripts" / "studio.py"), *words]


@pytest.fixture(scope="module")
def studio(place: Path) -> Iterator[int]:
    """The port of a studio."""
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(command(place, port), cwd=place, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith("studio: ")), "")
    assert line == f"studio: http://127.0.0.1:{port}\n"
    yield port
    process.terminate()
    process.wait(30)


async def choose(tab: Tab, run: Path) -> None:
    await tab.fill("#run input", str(run))
    await tab.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13)


@pytest.mark.slow
def test_a_page_that_draws_stops_refuses_and_restores(studio: int, place: Path, tmp_path: Path) -> None:
    if BROWSER is None:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)("no chromium on PATH: apt-get install chromium")
    asyncio.run(walk(f"http://127.0.0.1:{studio}", place, tmp_path))


async def walk(address: str, place: Path, tmp_path: Path) -> None:
    async with browser(tmp_path) as chromium:
        one, two = await chromium.tab(), await chromium.tab()
        for tab in (one, two):
            await tab.open(address, "!!document.querySelector('#draw')")
            await tab.until("document.querySelector('#run input')?.value.length > 3")
        outside = "performance.getEntriesByType('resource').map(e => new URL(e.name).host)"
        assert set(await one.js(outside)) == {address.removeprefix("http://")}, "nothing of another site"
        await choose(one, place / "runs" / "labelled")
        await choose(two, place / "runs" / "plain")
        await one.until("!!document.querySelector('#labels input')")
        await two.until("!document.querySelector('#labels')")

        await one.click("#draw")  # two people: each has images of the own run, one drawing after the other
        await two.click("#draw")
        for tab in (one, two):
            await tab.until(DONE)
            await tab.until(f"{SHOWN} === 4")
        files = sorted((place / "history").glob("*/*.png"))
        drawn = [png.read(file) for file in files]
        assert sorted(Path(record["settings"]["run"]).name for record in drawn) == ["labelled"] * 4 + ["plain"] * 4

        await one.click("#gallery .thumbnail-item")  # an image says how it is made, and is made again
        await one.until("document.querySelector('#record')?.innerText.includes('scripts/sample.py')")
        await one.click("#again")
        await one.until("document.querySelector('#status').innerText.includes('every pixel is the same')")

        await two.fill("#steps input", "1000")
        await two.fill("#count input[type=number]", "64")
        await two.click("#draw")
        await two.until("document.querySelector('#status').innerText.includes('step')")
        await two.click("#stop")
        await two.until("document.querySelector('#status').innerText.includes('Stopped')")
        assert sorted((place / "history").glob("*/*.png")) == files

        await two.fill("#steps input", "0")
        await two.click("#draw")
        assert "steps" in await two.until(WRONG)

        picture = tmp_path / "no_image.png"
        picture.write_text("no image")
        await two.upload("#restore input[type=file]", picture)
        assert "no_image.png is no image that can be read" in await two.until(
            f"{WRONG}?.includes('no image') && {WRONG}"
        )

        await two.open(address, "document.querySelector('#run input')?.value.length > 3")
        label = next(file for file, record in zip(files, drawn, strict=True) if record["settings"]["labels"] == [])
        image, record = Image.open(label), png.read(label)
        record["settings"] |= {"seed": 77, "steps": 3, "run": str(place / "runs" / "labelled"), "labels": ["3"]}
        png.save(image, tmp_path / "dropped.png", json.loads(json.dumps(record)))
        await two.upload("#restore input[type=file]", tmp_path / "dropped.png")
        await two.until("document.querySelector('#seed input').value === '77'")
        assert await two.js("document.querySelector('#steps input').value") == "3"
        assert "labelled" in await two.js("document.querySelector('#run input').value")


@pytest.mark.slow
def test_a_port_in_use_is_one_sentence(studio: int, place: Path) -> None:
    begun = time.monotonic()
    ended = subprocess.run(command(place, studio), cwd=place, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: the page cannot be opened at 127.0.0.1:{studio}")
    assert ended.stderr.count("\n") == 1
    assert time.monotonic() - begun < 60
