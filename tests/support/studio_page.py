"""A studio that is a process of its own, with small untrained runs, and the ways of a person in its page."""

from __future__ import annotations

import asyncio
import functools
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from browser import Browser, Tab
from model_folders import SMALL, run_folder
from PIL import Image
from scripts_in_process import run_script

from diffusion.experiment.studio import png

ROOT = Path(__file__).parents[2]
FOLDER = ["data=image_folder", "data.channels=1", "data.resolution=16"]
LOW = ["conditioner=low_resolution", "conditioner.factor=2", "network.attention=[]"]
WORDS = ["text_encoder.dim=8", "text_encoder.pooled_dim=6", "text_encoder.depth=1", "text_encoder.heads=2"]
RUNS = {
    "labelled": ["data.resolution=8", "conditioner=label", "guidance=[classifier_free,clip]"],
    "plain": ["data.resolution=8", "conditioner=none"],
    "worded": ["data=emoji", "data.resolution=32", "network.attention=[]", "conditioner=text", *WORDS],
    "large": [*FOLDER, *LOW],
}
DONE = "/images? in /.test(document.querySelector('#status').innerText)"
OPENED = "document.querySelector('#run input')?.value.length > 3"


def walk(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that waits for a page, in the loop of its ``chromium``."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        fixtures["chromium"].reader.get_loop().run_until_complete(test(**fixtures))

    return run


def make_runs(place: Path) -> None:
    """The run folders of :data:`RUNS`."""
    for name, overrides in RUNS.items():
        root = [f"data.root={place}"] if overrides[: len(FOLDER)] == FOLDER else []
        run = run_folder(place, name, *SMALL, "sampler.steps=4", *root, *overrides)
        (run / ".hydra").mkdir()
        shutil.copy(run / "config.yaml", run / ".hydra" / "config.yaml")


def pipeline(place: Path) -> str:
    """Two runs that draw together."""
    return f"pipeline=cascade pipeline.base.run={place / 'labelled'} pipeline.upsamplers.x2.run={place / 'large'}"


def command(place: Path, port: int, *more: str) -> list[str]:
    """Of a studio of the runs and the history in a folder."""
    words = [f"runs={place / 'runs'}", f"output={place / 'history'}", f"port={port}", *more]
    return [sys.executable, str(ROOT / "scripts" / "studio.py"), *words]


@contextmanager
def studio(place: Path, *more: str) -> Iterator[tuple[int, str]]:
    """A studio -> its port, and what it said at its start."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(command(place, port, *more), cwd=place, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield port, next((line for line in process.stdout if line.startswith("studio: ")), "")
    finally:
        process.terminate()
        process.wait(30)


async def choose(tab: Tab, run: Path | str, field: str = "#run") -> None:
    """A run, by its folder, or a pipeline by its words."""
    await tab.fill(f"{field} input", str(run))
    await tab.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13)


async def show(tab: Tab, name: str) -> None:
    """A tab of the page."""
    await tab.js(f"[...document.querySelectorAll('button[role=tab]')].find(b => b.innerText === '{name}').click()")


async def said(tab: Tab, words: str, where: str = "#status") -> str:
    """Waits until the page says something, and gives all that it says."""
    text = f"document.querySelector({where!r})?.innerText"
    return str(await tab.until(f"{text}?.includes({words!r}) && {text}"))


async def drag(tab: Tab, selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A stroke of the mouse in an element; places in it are shares of its width and height."""
    left, top, wide, tall = await tab.js(
        f"(() => {{ const r = document.querySelector({selector!r}).getBoundingClientRect(); "
        "return [r.x, r.y, r.width, r.height]; })()"
    )
    steps = [tuple(a + (b - a) * i / 8 for a, b in zip(start, end, strict=True)) for i in range(9)]
    points = [{"x": left + x * wide, "y": top + y * tall} for x, y in steps]
    await tab.send("Input.dispatchMouseEvent", type="mouseMoved", **points[0])
    await tab.send("Input.dispatchMouseEvent", type="mousePressed", button="left", clickCount=1, **points[0])
    for point in points:
        await tab.send("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **point)
    await tab.send("Input.dispatchMouseEvent", type="mouseReleased", button="left", clickCount=1, **points[-1])


async def opened(chromium: Browser, port: int, run: Path | str | None = None) -> Tab:
    """A page of a new person, with a run chosen."""
    tab = await chromium.tab()
    await tab.open(f"http://127.0.0.1:{port}", "!!document.querySelector('#draw')")
    await tab.until(OPENED)
    if run is not None:
        await choose(tab, run)
        await tab.until(f"document.querySelector('#run input').value === {str(run)!r}")
        await tab.until("!!document.querySelector('#steps input')")
    return tab


def folders_of(place: Path) -> set[Path]:
    """Of the drawings in the history."""
    return set((place / "history").glob("[!.]*-*"))


async def drawn(tab: Tab, place: Path, button: str, *, status: str = "#status") -> list[Path]:
    """Clicks on a button -> the files of the drawing that it makes."""
    before = folders_of(place)
    await tab.click(button)
    (folder,) = await new_folders(tab, place, before, 1)
    await tab.until(DONE.replace("#status", status))
    return sorted(folder.glob("*.png"))


async def new_folders(tab: Tab, place: Path, before: set[Path], count: int) -> list[Path]:
    """Waits for so many drawings, and gives their folders in their order."""
    end = time.monotonic() + 120
    while len(made := folders_of(place) - before) < count:
        assert time.monotonic() < end, await tab.js("document.body.innerText")
        await asyncio.sleep(0.1)
    return sorted(made, key=lambda folder: folder.stat().st_mtime)


async def pick(tab: Tab, number: int, where: str = "#gallery") -> None:
    """A click on an image of a gallery."""
    image = f"document.querySelectorAll('{where} .grid-container .thumbnail-item')[{number}]"
    await tab.until(f"!!{image}")
    await tab.js(f"{image}.dataset.picked = '{where}{number}'")
    await tab.click(f"[data-picked='{where}{number}']")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def assert_made_by_their_command(files: list[Path], output: Path) -> None:
    """The project's script draws the same files to the bit."""
    records = [png.read(file) for file in files]
    run_script(shlex.join([*shlex.split(records[0]["command"])[1:], f"output={output}"]))
    for file, record in zip(files, records, strict=True):
        np.testing.assert_array_equal(pixels(output / record["file"]), pixels(file))
