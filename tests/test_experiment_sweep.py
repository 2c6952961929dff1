"""Sweeps: nothing that is finished runs again, nothing that fails stops the rest, whatever launches the jobs."""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from diffusion.experiment.app import CONF
from diffusion.experiment.cell import MACHINE, identity
from diffusion.experiment.layout import Cell
from diffusion.experiment.status import read_status, write_status
from diffusion.experiment.view import View, last_step, left, share, state

ROOT = Path(__file__).parents[1]

TOY = '''
"""A toy."""
from pathlib import Path
from diffusion.experiment.app import app

@app("toy", conf=Path(__file__).parent / "conf")
def main(cfg):
    import os, signal, sys, time
    from diffusion.experiment.record import Record
    folder = Path(cfg.paths.run)
    with Record(folder, cfg):
        with open(folder / "ran.txt", "a") as file:
            file.write(f"{os.getpid()} {cfg.resume}\\n")
        if cfg.part.mode == "fail" and not (Path(cfg.paths.outputs) / "mended").exists():
            raise ValueError("a bad part")
        if cfg.part.mode == "exit":
            sys.exit(3)
        if cfg.part.mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if cfg.part.mode == "sleep":
            (folder / "checkpoints").mkdir()
            (folder / "checkpoints" / "last.ckpt").touch()
            time.sleep(60)
        (folder / "metrics.csv").write_text(f"step,score\\n1,{cfg.part.score}\\n")

if __name__ == "__main__":
    main()
'''
CONFIG = """
defaults: [_self_, {part: good}, {hydra: default}, {experiment: none}]
name: toy
seed: 0
resume: null
scale: 1.0
paths: {outputs: outputs, run: "${hydra:runtime.output_dir}"}
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    conf = tmp_path / "conf"
    (conf / "hydra").mkdir(parents=True)
    for path in sorted((CONF / "hydra").rglob("*.yaml")):
        (conf / path.relative_to(CONF)).parent.mkdir(parents=True, exist_ok=True)
        (conf / path.relative_to(CONF)).write_text(path.read_text())
    (conf / "toy.yaml").write_text(CONFIG)
    (conf / "part").mkdir()
    for mode in ("good", "fine", "fail", "exit", "kill", "sleep"):
        (conf / "part" / f"{mode}.yaml").write_text(f"mode: {mode}\nscore: 1.5\n")
    (conf / "experiment").mkdir()
    (conf / "experiment" / "none.yaml").write_text("{}\n")
    (conf / "experiment" / "pin.yaml").write_text("# @package _global_\npart: {mode: good}\n")
    (tmp_path / "toy.py").write_text(TOY)
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "toy.py", "-m", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def sweep(folder: Path, *arguments: str, code: int = 0) -> str:
    child = start(folder, *arguments)
    _, err = child.communicate(timeout=120)
    assert child.returncode == code, err
    return err


def runs(folder: Path, name: str = "toy") -> dict[str, int]:
    """How often each cell ran."""
    found = sorted((folder / "outputs" / name).glob("*/ran.txt"))
    return {path.parent.name: len(path.read_text().splitlines()) for path in found}


def test_the_same_command_again_runs_nothing(toy: Path):
    err = sweep(toy, "seed=1,2", "part=good,fine")
    assert "4 finished" in err
    assert "4 skipped" in sweep(toy, "seed=1,2", "part=good,fine")
    assert list(runs(toy).values()) == [1] * 4
    assert "4 skipped, 2 finished" in sweep(toy, "seed=1,2,3", "part=good,fine")
    assert list(runs(toy).values()) == [1] * 6
    for folder in runs(toy):  # what was laid out is what ran
        assert identity(OmegaConf.load(toy / "outputs" / "toy" / folder / "config.yaml")) == folder
    assert not (toy / "multirun").exists()


def test_an_edited_config_file_makes_new_cells(toy: Path):
    sweep(toy, "seed=1,2")
    (toy / "conf" / "part" / "good.yaml").write_text("mode: good\nscore: 2.5\n")
    assert "2 finished" in sweep(toy, "seed=1,2")
    assert len(runs(toy)) == 4


def test_what_failed_runs_again_and_the_others_go_on(toy: Path):
    err = sweep(toy, "part=fail,good,exit", code=1)
    assert "2 failed, 1 finished" in err
    assert "ValueError: a bad part" in err
    failed = [f for f in (toy / "outputs" / "toy").iterdir() if (f / "traceback.txt").exists()]
    assert len(failed) == 2
    assert any("ValueError: a bad part" in (f / "toy.log").read_text() for f in failed)
    (toy / "outputs" / "mended").touch()
    assert "2 finished, 1 failed" not in sweep(toy, "part=fail,good,exit", code=1)
    assert sorted(runs(toy).values()) == [1, 2, 2]


def test_failed_cells_can_be_left_alone(toy: Path):
    sweep(toy, "part=fail,good", code=1)
    sweep(toy, "part=fail,good", "hydra.sweeper.retry=false", code=1)
    assert list(runs(toy).values()) == [1, 1]


def test_identical_cells_run_once_and_are_pointed_out(toy: Path):
    err = sweep(toy, "scale=1.0,2.0,1.00")
    assert "same as scale=1.0" in err
    assert list(runs(toy).values()) == [1, 1]


def test_a_key_that_the_experiment_pins_is_refused(toy: Path):
    err = sweep(toy, "experiment=pin", "part=good,fine", code=2)
    assert "part=good,fine makes identical jobs" in err
    assert err.count("\n") == 1
    assert not (toy / "outputs").exists()


def test_sweeping_where_things_lie_is_refused(toy: Path):
    assert "not what it computes" in sweep(toy, "paths.outputs=a,b", code=2)


def test_a_folder_of_another_sweep_is_refused_and_kept(toy: Path):
    sweep(toy, "seed=1,2")
    before = (toy / "outputs" / "toy" / "sweep.json").read_bytes()
    assert "holds another sweep (over seed" in sweep(toy, "scale=1,2", code=2)
    assert "holds another sweep" in sweep(toy, "seed=1,2", "scale=3", code=2)
    assert (toy / "outputs" / "toy" / "sweep.json").read_bytes() == before
    sweep(toy, "scale=1,2", "name=other")
    assert len(runs(toy)) == len(runs(toy, "other")) == 2


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        (["seed=1,2", "part=god,fine"], "nearest first: good"),
        (["seeed=1,2"], "did you mean 'seed'?"),
        (["seed=1,2", "part.scor=1,2"], "did you mean 'part.score'?"),
        (["seed=interval(0,1)"], "hydra/sweeper=search"),
    ],
)
def test_mistakes_are_found_before_anything_runs(toy: Path, arguments: list[str], change: str):
    assert change in sweep(toy, *arguments, code=2)
    assert not (toy / "outputs").exists()


def wait_for_cells(folder: Path, count: int, running: subprocess.Popen[str]) -> list[Path]:
    deadline = time.monotonic() + 60
    while len(found := list((folder / "outputs" / "toy").glob("*/ran.txt"))) < count:
        assert time.monotonic() < deadline
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.05)
    return [path.parent for path in found]


def test_sigterm_stops_the_sweep_and_the_same_command_continues_it(toy: Path):
    child = start(toy, "part=sleep,good")
    (folder,) = wait_for_cells(toy, 1, child)
    time.sleep(0.3)
    child.terminate()
    _, err = child.communicate(timeout=30)
    assert child.returncode == 143, err
    assert read_status(folder)["status"] == "preempted"
    assert "1 preempted, 1 waiting" in err
    again = start(toy, "part=sleep,good")
    wait_for_cells(toy, 1, again)
    deadline = time.monotonic() + 30
    while (lines := (folder / "ran.txt").read_text().splitlines()) and len(lines) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again.kill()
    again.communicate()
    assert lines[0].endswith("None")
    assert lines[1].endswith(folder.name)  # it was told to resume


def test_a_cell_that_another_process_is_at_is_waited_for(toy: Path):
    first = start(toy, "part=sleep", "name=toy")
    (folder,) = wait_for_cells(toy, 1, first)
    second = start(toy, "part=sleep", "name=toy")
    time.sleep(3)
    assert second.poll() is None
    assert len((folder / "ran.txt").read_text().splitlines()) == 1
    first.kill()
    first.communicate()
    deadline = time.monotonic() + 30
    while len((folder / "ran.txt").read_text().splitlines()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second.kill()
    second.communicate()


@pytest.mark.parametrize(
    "launcher",
    [pytest.param("submitit_local", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)],
)
def test_a_killed_job_does_not_stop_the_others(toy: Path, launcher: str):
    err = sweep(toy, "part=kill,good,fail", f"hydra/launcher={launcher}", code=1)
    assert "killed: process" in err
    assert "ValueError: a bad part" in err
    states = [read_status(f.parent)["status"] for f in (toy / "outputs" / "toy").glob("*/ran.txt")]
    assert sorted(states) == ["failed", "failed", "finished"]


def test_a_cell_that_does_nothing_costs_little(toy: Path):
    def work(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        sweep(toy, *arguments)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert (work("seed=range(21)", "name=many") - work("seed=0", "name=one")) / 20 < 0.3


def test_identity_depends_on_what_is_computed_and_on_nothing_else():
    base = {"seed": 0, "paths": {"outputs": "a"}, "data": {"root": "${paths.outputs}/x", "num_workers": 0}, "tags": []}
    one = identity(OmegaConf.create(base))
    assert one == identity(OmegaConf.create(base | {"tags": ["x"], "paths": {"outputs": "b"}, "name": "n"}))
    assert one == identity(OmegaConf.create(dict(reversed(base.items()))))
    assert one != identity(OmegaConf.create(base | {"seed": 1}))
    assert one != identity(OmegaConf.create(base | {"data": {"root": "elsewhere", "num_workers": 0}}))
    assert re.fullmatch("[0-9a-f]{12}", one)
    assert "trainer.devices" in MACHINE


# The real script --------------------------------------------------------------------------------------------------

TINY = [
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=2",
    "trainer.val_check_interval=4",
    "logger=csv",
    "evaluation=none",
    "callbacks=[checkpoint,progress]",
    "callbacks.checkpoint.every_n_train_steps=1",
    "network.channels=8",
    "data.batch_size=16",
]
TWO_RANKS = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


def train(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "scripts/train.py", "-m", *TINY, f"paths.outputs={folder}", "name=s", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def weights(folder: Path) -> dict[str, dict]:
    import torch

    cells = sorted((folder / "s").glob("*/checkpoints/last.ckpt"))
    return {path.parts[-3]: torch.load(path, weights_only=True)["state_dict"] for path in cells}


def equal(one: dict[str, dict], other: dict[str, dict], tolerance: float = 0.0) -> bool:
    import torch

    assert one.keys() == other.keys()
    return all(
        torch.allclose(one[cell][key], other[cell][key], rtol=0.0, atol=tolerance) for cell in one for key in one[cell]
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """The weights of two seeds, one after the other in one process."""
    folder = tmp_path_factory.mktemp("basic")
    assert train(folder, "seed=0,1").wait(120) == 0
    assert len(weights(folder)) == 2
    return weights(folder)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_every_launcher_gives_the_same_weights(tmp_path: Path, plain: dict, launcher: str):
    assert train(tmp_path, "seed=0,1", f"hydra/launcher={launcher}").wait(180) == 0
    assert equal(weights(tmp_path), plain)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "ray"])
def test_two_ranks_inside_a_sweep_give_the_same_weights(tmp_path: Path, plain: dict, launcher: str):
    job = ["hydra.launcher.n_jobs=1"] if launcher == "joblib" else []
    assert train(tmp_path, "seed=1", *TWO_RANKS, f"hydra/launcher={launcher}", *job).wait(240) == 0
    (cell,) = weights(tmp_path)  # one folder, named as it would be on one rank
    assert equal(weights(tmp_path), {cell: plain[cell]}, tolerance=1e-6)
    assert OmegaConf.load(tmp_path / "s" / cell / "config.yaml").trainer.devices == 2


@pytest.mark.slow
def test_a_killed_sweep_ends_bit_identical(tmp_path: Path):
    swept = ["seed=0,1", "parameterization=epsilon,velocity", "ema=warmup,constant"]
    assert train(tmp_path / "whole", *swept).wait(240) == 0
    child = train(tmp_path / "cut", *swept)
    moment = random.SystemRandom().random()
    deadline = time.monotonic() + 120
    while len(weights_so_far := list((tmp_path / "cut").glob("s/*/checkpoints/last.ckpt"))) < 1 + 5 * moment:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5 * moment)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = {
        path.parent: path.read_bytes()
        for path in (tmp_path / "cut").glob("s/*/status.json")
        if read_status(path.parent)["status"] == "finished"
    }
    assert len(weights_so_far) >= 1
    assert len(finished) < 8
    assert train(tmp_path / "cut", *swept).wait(240) == 0
    assert equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    for cell, status in finished.items():
        assert (cell / "status.json").read_bytes() == status
    manifests = [json.loads((tmp_path / name / "s" / "sweep.json").read_text()) for name in ("whole", "cut")]
    assert manifests[0]["cells"] == manifests[1]["cells"]
    assert len(manifests[0]["cells"]) == 8


# The view ---------------------------------------------------------------------------------------------------------


def test_the_view_tells_states_progress_and_time_left(tmp_path: Path):
    cells = [Cell([], [f"seed={i}"], tmp_path / str(i), str(i), steps=10) for i in range(3)]
    for cell in cells:
        cell.folder.mkdir()
    cells[2].skipped = True
    plain, screen = io.StringIO(), io.StringIO()
    with View(cells, Console(file=plain, width=100), every=0.01), View(
        cells, Console(file=screen, width=100, force_terminal=True), every=0.01
    ):  # fmt: skip
        write_status(cells[0].folder, {"status": "running", "host": "elsewhere"})
        (cells[0].folder / "metrics.csv").write_text("step,x\n4,0.1\n5,0.2\n")
        assert (share(cells[0]), state(cells[1]), state(cells[2])) == (0.5, "waiting", "skipped")
        time.sleep(0.1)
        write_status(cells[0].folder, {"status": "failed", "reason": "a bad seed"})
        time.sleep(0.6)
    assert "seed=0: running" in plain.getvalue()
    assert "seed=0: failed (a bad seed)" in plain.getvalue()
    assert "\x1b" not in plain.getvalue()
    assert "1 waiting" in screen.getvalue()
    assert "TTY_COMPATIBLE" not in os.environ


def test_time_left_follows_the_share_that_is_done(tmp_path: Path):
    cells = [Cell([], [], tmp_path / str(i), str(i), recorded=False) for i in range(4)]
    assert left(cells, time.monotonic()) == "time left unknown"
    cells[0].result = {"status": "finished"}
    assert left(cells, time.monotonic() - 60) == "0:03:00 left"


@pytest.mark.parametrize(("text", "step"), [("", 0), ("step,x\n", 0), ("step,x\n7,1\n", 7), ("step,x\n7,1\n8", 8)])
def test_the_last_step_of_a_file_that_is_being_written(tmp_path: Path, text: str, step: int):
    (tmp_path / "metrics.csv").write_text(text)
    assert last_step(tmp_path / "metrics.csv") == step
