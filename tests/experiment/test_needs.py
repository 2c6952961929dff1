"""Needs: what a run is built on is trained first, once, wherever and however often it is needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from toys import runs, single, start, sweep
from warm import Popen

from diffusion.experiment.cli.app import CONF
from diffusion.experiment.run.status import read_status

NEED = ("weak=${needed:w}", "name=top", "needs.w=[part=fine,seed=3]")


def the_need(toy: Path) -> Path:
    (folder,) = (path.parent for path in (toy / "outputs" / "toy").glob("*/ran.txt"))
    return folder


def experiment(toy: Path, name: str, text: str) -> None:
    (toy / "conf" / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")


@pytest.mark.slow
def test_a_need_is_trained_first_and_once(toy: Path):
    said = single(toy, *NEED)
    need = the_need(toy)
    assert f"needs.w: training outputs/toy/{need.name} first" in said
    (top,) = (toy / "outputs" / "top").iterdir()
    config = yaml.safe_load((top / "config.yaml").read_text())
    record = {"run": f"outputs/toy/{need.name}", "identity": need.name}
    assert config["weak"] == f"outputs/toy/{need.name}"
    assert config["needs"]["w"] == {"overrides": ["part=fine", "seed=3"], **record}
    assert json.loads((top / "environment.json").read_text())["needs"] == {"w": record}
    said = single(toy, *NEED)
    assert f"needs.w: outputs/toy/{need.name} is finished" in said
    assert list(runs(toy).values()) == [1]
    assert len(runs(toy, "top")) == 2


@pytest.mark.slow
def test_a_run_of_the_same_config_is_found_wherever_it_lies(toy: Path):
    single(toy, "name=mine", "part=fine", "seed=3")
    single(toy, *NEED)
    assert not runs(toy)
    assert len(runs(toy, "mine")) == 1


@pytest.mark.slow
def test_needs_nest_and_a_plan_trains_nothing(toy: Path):
    experiment(toy, "middle", 'name: middle\nneeds: {base: [part=fine, "seed=${seed}"]}\nweak: ${needed:base}')
    words = ("name=top", "needs.m=[experiment=middle,seed=5]", "needs.b=[part=fine,seed=5]", "scale=2")
    said = single(toy, *words, "plan=true").splitlines()
    assert [line.split(" outputs")[0] for line in said] == [
        "this run []",
        "  needs.m [experiment=middle seed=5]",
        "    needs.base [part=fine seed=5]",
        "  needs.b",
    ]
    assert all(line.endswith(("to train, time unknown", "see above")) for line in said)
    assert not (toy / "outputs").exists()
    single(toy, *words)
    assert [list(runs(toy, name).values()) for name in ("toy", "middle", "top")] == [[1]] * 3
    assert "finished, took 0:00:0" in single(toy, *words, "plan=true").splitlines()[1]


def test_a_run_that_needs_itself_is_refused(toy: Path):
    experiment(toy, "loop", "needs: {a: [experiment=loop]}")
    said = single(toy, "experiment=loop", code=2)
    assert "needs.a=[experiment=loop] needs itself" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("needs.w=5",), "needs.w is a list of overrides of another training, got 5"),
        (("needs.w=[part=fin]",), "needs.w: part has no option 'fin'"),
        (("needs.w=[scal=2]",), "needs.w: there is no config key 'scal'; did you mean 'scale'?"),
        (("needs.w=[seed]",), "needs.w: "),
        (("weak=${needed:w}",), "set needs.w=["),
    ],
)
def test_bad_needs_are_refused_in_one_sentence(toy: Path, words: tuple[str, ...], sentence: str):
    said = single(toy, *words, code=2)
    assert sentence in said
    assert said.count("\n") == 1
    assert not (toy / "outputs").exists()


@pytest.mark.slow
def test_a_need_that_fails_says_which_and_why_and_is_tried_again(toy: Path):
    words = ("name=top", "needs.w=[part=fail]", "weak=${needed:w}")
    said = single(toy, *words, code=1)
    assert "needs.w (outputs/toy/" in said
    assert "ValueError: a bad part" in said
    (top,) = (toy / "outputs" / "top").iterdir()
    assert "needs.w" in (read_status(top) or {})["reason"]
    (toy / "outputs" / "mended").touch()
    single(toy, *words)
    assert list(runs(toy).values()) == [2]


@pytest.mark.slow
def test_the_identity_of_a_cell_holds_what_its_needs_compute_and_not_where(toy: Path):
    sweep(toy, "needs.w=[part=fine,seed=3],[part=fine,seed=4]", "weak=${needed:w}", "name=top")
    sweep(toy, "needs.w=[part=fine,seed=3],[part=fine,seed=4]", "weak=${needed:w}", "name=top", "paths.outputs=other")
    cells = {path.parent.name for path in (toy / "outputs" / "top").glob("*/ran.txt")}
    assert len(cells) == 2
    assert cells == {path.parent.name for path in (toy / "other" / "top").glob("*/ran.txt")}
    err = sweep(toy, "needs.w=[part=fine,seed=3],[seed=3,part=fine]", "weak=${needed:w}", "name=top2", code=2)
    assert "makes identical jobs" in err
    out, _ = start(toy, "needs.w=[part=fine,seed=3],[seed=9]", "weak=${needed:w}", "plan=true").communicate()
    assert out.count("finished, took") == 1
    assert out.count("to train") == 3  # two cells, and the need with another seed


@pytest.mark.parametrize(
    "launcher",
    ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)],
)
def test_cells_that_need_the_same_run_make_it_once(toy: Path, launcher: str):
    jobs = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    sweep(toy, "seed=1,2", "needs.w=[part=nap]", "weak=${needed:w}", "name=top", f"hydra/launcher={launcher}", *jobs)
    assert list(runs(toy).values()) == [1]
    assert list(runs(toy, "top").values()) == [1, 1]
    logs = "".join(path.read_text() for path in (toy / "outputs" / "top").glob("*/toy.log"))
    assert logs.count("which another process trains") <= 1
    assert logs.count("is finished") == 2


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_in_its_need_goes_on_there(toy: Path, signum: int, code: int):
    words = ("name=top", "needs.w=[part=nap]", "weak=${needed:w}")
    running = start(toy, *words, sweep=False)
    deadline = time.monotonic() + 60
    while not runs(toy):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signum)
    running.communicate()
    assert running.returncode == code
    (top,) = (toy / "outputs" / "top").iterdir()
    for folder in (top, the_need(toy)):
        assert (read_status(folder) or {})["status"] == ("preempted" if code == 143 else "failed")
    single(toy, *words)
    assert list(runs(toy).values()) == [2]
    assert list(runs(toy, "top").values()) == [1]


SMALL = [
    "network.channels=8",
    "data.batch_size=16",
    "evaluation=none",
    "logger=csv",
    "callbacks=[checkpoint]",
    "callbacks.checkpoint.every_n_train_steps=1",
]


def train(outputs: Path) -> subprocess.Popen[str]:
    """A digits run that is guided by a weaker one, which it needs."""
    weak = ",".join([*SMALL, "name=weak", "trainer.max_steps=40"])
    command = [
        sys.executable, CONF.parent / "scripts" / "train.py", *SMALL, "name=strong", "trainer.max_steps=2",
        "guidance=auto", "guidance.auto.weak.run=${needed:weak}", f"needs.weak=[{weak}]", f"paths.outputs={outputs}",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def weights(outputs: Path, name: str) -> dict[str, Any]:
    import torch

    folders = [path.parent for path in outputs.glob(f"{name}/*/status.json")]
    (done,) = (folder for folder in folders if (read_status(folder) or {})["status"] == "finished")
    state: dict[str, Any] = torch.load(done / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
def test_a_run_that_is_killed_in_its_need_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path):
    import torch

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    said, _ = train(whole).communicate(timeout=300)
    first = train(killed)
    deadline = time.monotonic() + 120
    while not list(killed.glob("weak/*/checkpoints/last.ckpt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.kill()
    first.communicate()
    (weak,) = killed.glob("weak/*")
    assert (read_status(weak) or {})["killed"], said
    said, _ = train(killed).communicate(timeout=300)
    assert f"needs.weak: continuing {weak} first" in said
    assert (read_status(weak) or {})["segments"] == 2
    for name in ("weak", "strong"):
        one, other = weights(whole, name), weights(killed, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
