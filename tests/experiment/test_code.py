"""Code is part of what a result is: a cell whose parts' code has changed is stale, and no other is."""

import json
import os
import sys
from pathlib import Path

import pytest
import warm

from diffusion.experiment.run.code import changed, code_of, read_code, write_code

ROOT = Path(__file__).parents[2]
SMALL = [
    "trainer=cpu", "trainer.max_steps=2", "network.channels=8", "data.batch_size=16", "evaluation=none", "logger=csv",
    "callbacks=[checkpoint]",
]  # fmt: skip


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A package of a name that no other test has: what was read of a file is kept in a process."""
    folder = tmp_path / f"own_{abs(hash(request.node.name))}"
    (folder / "inner").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def modules(package: Path, **files: str) -> None:
    for name, text in files.items():
        path = package.joinpath(*name.split("__")).with_suffix(".py")
        path = path.with_stem(path.stem.replace("INIT", "__init__"))
        path.write_text(text.replace("PACKAGE", package.name))


def test_what_a_part_imports_counts_wherever_it_does_so_and_nothing_else(package: Path) -> None:
    modules(
        package,
        part="import math\nimport numpy\nfrom PACKAGE.inner import shared\nfrom . import sibling\n\n"
        "def late():\n    from PACKAGE import used_late\n\n"
        "try:\n    import PACKAGE.tried\nexcept ImportError:\n    import PACKAGE.otherwise\n\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PACKAGE import for_types\n",
        inner__INIT="from PACKAGE.inner.deep import shared\nfrom PACKAGE.inner.other import unused\n",
        inner__deep="from diffusion.sampler.base import Sampler\nshared = 1\n",
        inner__other="unused = 1\n",
        sibling="", used_late="", tried="", otherwise="", for_types="", beside="",
    )  # fmt: skip
    code = code_of({"sampler": {"_target_": f"{package.name}.part.Part"}})
    mine = {name.removeprefix(f"{package.name}.") for name in code if name.startswith(package.name)}
    assert mine == {"part", "inner.deep", "sibling", "used_late", "tried", "otherwise"}
    theirs = {name for name in code if name.startswith("diffusion.")}
    assert "diffusion.sampler.base" in theirs
    assert "diffusion.schedule.base" in theirs
    assert not {name for name in theirs if "ddim" in name or name.startswith("diffusion.experiment")}
    assert not [name for name in code if name.split(".")[0] in ("math", "numpy", "torch", "typing")]


def test_what_only_watches_a_run_and_rooms_that_are_not_asked_for_do_not_count(package: Path) -> None:
    modules(package, a="", b="")
    cfg = {room: {"_target_": f"{package.name}.{name}.X"} for room, name in (("sampler", "a"), ("objective", "b"))}
    assert set(code_of(cfg, ["sampler"])) == {f"{package.name}.a"}
    assert code_of({"logger": {"csv": cfg["sampler"]}, "callbacks": {"progress": cfg["objective"]}}) == {}


def test_what_changed_is_named_and_a_result_without_a_record_is_left_alone(package: Path, tmp_path: Path) -> None:
    assert changed(tmp_path, {"a": "1"}) == []
    write_code(tmp_path, {"a": "1", "b": "2"})
    assert read_code(tmp_path) == {"a": "1", "b": "2"}
    assert changed(tmp_path, {"a": "1", "b": "3", "c": "4"}) == ["b", "c"]
    assert changed(tmp_path, {"a": "1"}) == ["b"]
    assert changed(tmp_path, {"a": "1", "b": "2"}) == []


PART = '''"""Own."""
from diffusion.sampler.ddim import DDIMSampler

class {name}(DDIMSampler):
    """Own."""

    factor = 1.0
'''


@pytest.mark.slow
def test_a_formula_that_was_mended_makes_its_cells_stale_and_no_others(tmp_path: Path) -> None:
    def call(script: str, *words: str) -> str:
        done = warm.run(
            [sys.executable, ROOT / "scripts" / f"{script}.py", "--config-dir=conf", *words],
            cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    (tmp_path / "conf" / "sampler").mkdir(parents=True)
    (tmp_path / "conf" / "ablation").mkdir()
    (tmp_path / "own").mkdir()
    for name in ("one", "two"):
        (tmp_path / "own" / f"{name}.py").write_text(PART.format(name=name.title()))
        (tmp_path / "conf" / "sampler" / f"{name}.yaml").write_text(
            f"# Own.\n_target_: own.{name}.{name.title()}\nsteps: 2\nspacing: ${{spacing}}\neta: 0.0\n"
        )
    sweep = ("train", "-m", "sampler=one,two", "name=sweep", *SMALL)
    assert "2 finished" in call(*sweep)
    assert "2 skipped" in call(*sweep)
    folders = {p.name: p for p in (tmp_path / "outputs" / "sweep").iterdir() if p.is_dir()}
    before = {name: (p / "checkpoints" / "last.ckpt").read_bytes() for name, p in folders.items()}

    with (tmp_path / "own" / "one.py").open("a") as file:
        file.write("    factor = 2.0\n")
    (tmp_path / "own" / "README.md").write_text("A doc.")
    assert "2 skipped" in call(*sweep, "code=keep")
    shown = call(*sweep)
    assert "sampler=one is stale, and runs again: changed is own/one.py" in shown
    assert "two is stale" not in shown
    assert "1 skipped" in shown
    assert "1 finished" in shown
    now = {p.name for p in (tmp_path / "outputs" / "sweep").iterdir() if p.is_dir()}
    (new,) = now - folders.keys()
    assert new.endswith("-2")
    assert before == {name: (p / "checkpoints" / "last.ckpt").read_bytes() for name, p in folders.items()}
    assert "2 skipped" in call(*sweep)

    (tmp_path / "conf" / "ablation" / "own.yaml").write_text(
        "# Own.\ntitle: Own\nsource: own\ndata: digits\nprotocol: FD\nmetrics: [fd_digits-cnn-v1_64]\n"
        f"train: {json.dumps(SMALL[:4])}\n"
        "evaluate: [evaluation=digits, 'evaluation.metrics=[fd]', evaluation.num_samples=64]\n"
        "cells:\n  one: {evaluate: [sampler=one]}\n  two: {evaluate: [sampler=two]}\n"
    )
    call("reproduce", "ablation=own")
    scores = {p: p.stat().st_mtime_ns for p in (tmp_path / "outputs" / "reproduce").glob("*/evaluation/*/metrics.json")}
    assert len(scores) == 2
    with (tmp_path / "own" / "two.py").open("a") as file:
        file.write("    factor = 3.0\n")
    call("reproduce", "ablation=own", "code=keep")
    assert scores == {p: p.stat().st_mtime_ns for p in scores}
    assert "is stale, and scored again: changed is own/two.py" in call("reproduce", "ablation=own")
    again = list((tmp_path / "outputs" / "reproduce").glob("*/evaluation/*/metrics.json"))
    assert len(again) == 3, "the score of the code before is kept"
    assert [p for p, t in scores.items() if p.stat().st_mtime_ns != t] == [p for p in scores if "two" in p.parent.name]
