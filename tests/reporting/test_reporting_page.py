"""The page in a real browser: it fills itself, sorts, filters, compares, and asks nothing of any network."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import urlencode

import pytest
from run_folders import fingerprint, run_folder

from diffusion.reporting.page import page
from diffusion.reporting.runs import find
from diffusion.reporting.table import compare, over_seeds

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
REQUIRED = "REQUIRE_BROWSER"
"""Environment variable, set in continuous integration: a missing browser is a failure and not a skip."""
needs_browser = pytest.mark.usefixtures("browser")
ROOT = Path(__file__).parents[2]
FD = "fd_digits-cnn-v1_897"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def browser() -> None:
    if BROWSER is None:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)("no chromium on PATH: apt-get install chromium")


@pytest.fixture
def html(tmp_path) -> Path:
    values = [("a", 0, 50, 1.0), ("b", 1, 50, 3.0), ("c", 0, 5, 10.0), ("d<script>", 1, 5, 12.0)]
    for name, seed, steps, fd in values:
        run = run_folder(
            tmp_path / "runs" / name, seed=seed, lr=1e-3, scores={"e": ({FD: fd}, fingerprint(steps=steps, seed=seed))}
        )
        (run / "samples").mkdir()
        (run / "samples" / "step_0000150.png").write_bytes(PIXEL)
    table = compare(*find([tmp_path / "runs"]))
    path = tmp_path / "index.html"
    path.write_text(page(table, over_seeds(table), "a & b"))
    return path


def dump(path: Path, **state: str) -> str:
    """The page after its script ran, as the browser sees it."""
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom",
         f"--user-data-dir={path.parent / 'profile'}", f"file://{path}#{urlencode(state)}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def rows(dom: str, table: str = "runs") -> list[list[str]]:
    body = re.search(rf'<table id="{table}">(.*?)</table>', dom, re.S)[1]
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.S)
    return [
        [unescape(re.sub("<[^>]+>", "", cell)) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.S)] for row in found
    ]


@needs_browser
def test_the_table_fills_itself(html):
    dom = dump(html)
    head, *body = rows(dom)
    assert head == ["run", "status", "sampler.steps", "seed", FD, "NFE", "s / 1000 samples", "val/loss"]
    assert [row[0] for row in body] == ["a", "b", "c", "d<script>", "real images"]
    assert "4 of 4 rows" in dom
    assert dom.count("<circle") == 8, "a point for each row, against NFE and against time"
    pareto = re.search(r'id="pareto">(.*?)</svg>', dom, re.S)[1]
    marks = [float(text) for text in re.findall(r"<text[^>]*>([\d.]+)</text>", pareto)]
    assert marks == [5, 10, 20, 50, 1, 2, 5, 10], "NFE and FD on logarithmic axes, marked in ones, twos and fives"
    assert len(re.findall(r'<polyline class="curve"', dom)) == 4
    assert re.search(r'<td class="number best"[^>]*>1</td>', dom), "the best FD is marked"


@needs_browser
def test_sorting_and_filtering(html):
    down = rows(dump(html, sort=FD, way="down"))[1:-1]
    assert [row[0] for row in down] == ["d<script>", "c", "b", "a"]
    assert [row[0] for row in rows(dump(html, filter="sampler.steps<50 seed=1"))[1:-1]] == ["d<script>"]
    assert [row[0] for row in rows(dump(html, filter="nothing-has-this"))[1:-1]] == []


@needs_browser
def test_means_over_seeds_and_the_front(html):
    dom = dump(html, seeds="1", metric=FD)
    head, *body = rows(dom)
    assert head[:4] == ["status", "sampler.steps", "n", FD]
    assert sorted(row[3] for row in body[:-1]) == ["11 ± 1.4", "2 ± 1.4"]
    front = re.search(r'class="front"[^>]*points="([^"]*)"', dom)[1]
    assert len(front.split()) == 2, "few calls and bad, many and good: neither beats the other"


@needs_browser
def test_the_same_noise_side_by_side_and_the_difference_of_two_runs(html):
    dom = dump(html, noise="end of training, seed 1", one="0", other="1")
    shown = re.search(r'<div class="grids" id="grids">(.*?)</div>', dom, re.S)[1]
    assert [unescape(label) for label in re.findall(r"<figcaption>(.*?)</figcaption>", shown)] == [
        "b: seed 1",
        "d<script>: seed 1",
    ]
    assert rows(dom, "diff") == [["setting", "a", "b"], ["seed", "0", "1"]]


def test_the_page_needs_nothing_from_outside(html):
    text = html.read_text()
    assert not re.findall(r"(?:src|href|url|import)\s*[=(]\s*[\"']?(?:https?:|//)", text)
    assert "a &amp; b" in text
    assert json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])["runs"][3]["name"] == "d<script>"


def test_numbers_that_json_does_not_have_become_gaps(tmp_path):
    run_folder(tmp_path / "r", scores={"e": ({FD: float("nan")}, fingerprint())})
    table = compare(*find([tmp_path]))
    data = re.search(r'id="data">(.*?)</script>', page(table, None, "t"), re.S)[1]
    assert json.loads(data)["table"]["rows"][0]["values"][0][0] is None


@pytest.mark.parametrize(("required", "outcome"), [("", "1 skipped"), ("1", "1 error")])
def test_a_missing_browser_fails_where_one_is_required(required: str, outcome: str) -> None:
    """As continuous integration sees it: a process whose PATH has no browser."""
    name = f"{__file__}::test_the_table_fills_itself"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", name],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
        env={**os.environ, "PATH": "/nowhere", REQUIRED: required},
    )  # fmt: skip
    assert outcome in done.stdout
    assert (done.returncode == 0) == (required == "")


def test_ci_requires_a_browser_and_installs_one_where_there_is_none(tmp_path: Path) -> None:
    """Run with stand-ins for apt-get and make that note how they were called."""
    (tmp_path / "bin").mkdir()
    for name, line in {
        "apt-get": 'echo "apt-get $*"',
        "make": 'echo "make $* $REQUIRE_BROWSER"',
        "id": "echo 0",
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for tool in ("bash", "dirname", "sh", "env"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    environment = {"PATH": str(tmp_path / "bin")}

    def ci() -> list[str]:
        script = str(ROOT / ".ci" / "run")
        done = subprocess.run([script], env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()

    update, install, *tests = ci()
    assert update.startswith("apt-get update")
    assert install.startswith("apt-get install")
    assert install.endswith("chromium")
    assert tests == ["make test 1", "make slow 1"]
    (tmp_path / "bin" / "chromium").symlink_to("/bin/true")
    assert ci() == tests


def test_which_way_is_better_is_the_records(tmp_path):
    """Of an own metric its record says so, of a shipped one its name does, and of another nobody."""
    folder = run_folder(tmp_path / "a", scores={"e": ({FD: 1.0, "sharpness": 2.0, "odd": 3.0}, fingerprint())})
    (path,) = folder.glob("evaluation/*/metrics.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"better": {"sharpness": "higher"}}))
    text = page(compare(*find([tmp_path])), None, "")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    known = data["table"]["better"]
    assert (known[FD], known["sharpness"], known["NFE"]) == ("lower", "higher", "lower")
    assert "odd" not in known
