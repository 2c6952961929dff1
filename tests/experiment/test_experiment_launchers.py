"""Whatever launches the jobs of a sweep, on one rank or two: the same numbers, and a death stays one job's."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from toys import runs, sweep
from warm import Popen, run

from diffusion.experiment.run.status import read_status

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "launcher",
    ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow), pytest.param("ray", marks=pytest.mark.slow)],
)
def test_a_killed_job_does_not_stop_the_others(toy: Path, launcher: str):
    side_by_side = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    err = sweep(toy, "part=nap,kill,good,fail", f"hydra/launcher={launcher}", *side_by_side, code=1)
    assert "killed: process" in err
    assert "ValueError: a bad part" in err
    states = {name: read_status(toy / "outputs" / "toy" / name)["status"] for name in runs(toy)}
    assert sorted(states.values()) == ["failed", "failed", "finished", "finished"]
    assert list(runs(toy).values()) == [1] * 4


TINY = [
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=2",
    "trainer.val_check_interval=4",
    "logger=csv",
    "evaluation.num_samples=32",
    "evaluation.batch_size=16",
    "evaluation.metrics=[fd]",
    "sampler.steps=2",
    "callbacks=[checkpoint,progress]",
    "callbacks.checkpoint.every_n_train_steps=1",
    "network.channels=8",
    "data.batch_size=16",
]
TWO_RANKS = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


def train(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "scripts/train.py", "-m", *TINY, f"paths.outputs={folder}", "name=s", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def weights(folder: Path) -> dict[str, dict]:
    import torch

    cells = sorted((folder / "s").glob("*/checkpoints/last.ckpt"))
    return {path.parts[-3]: torch.load(path, weights_only=True)["state_dict"] for path in cells}


def scores(folder: Path) -> dict[str, float]:
    """Each cell's FD, from the evaluation that ends its training."""
    found = {path.parts[-4]: path.read_text() for path in (folder / "s").glob("*/evaluation/*/metrics.json")}
    return {cell: json.loads(text)["metrics"]["fd_digits-cnn-v1_32"] for cell, text in sorted(found.items())}


def equal(one: dict[str, dict], other: dict[str, dict], tolerance: float = 0.0) -> bool:
    import torch

    assert one.keys() == other.keys()
    return all(
        torch.allclose(one[cell][key], other[cell][key], rtol=0.0, atol=tolerance) for cell in one for key in one[cell]
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, one after the other in one process."""
    folder = tmp_path_factory.mktemp("basic")
    assert train(folder, "seed=0,1").wait(400) == 0
    assert len(weights(folder)) == len(scores(folder)) == 2
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_every_launcher_gives_the_same_numbers(tmp_path: Path, plain: Path, launcher: str):
    assert train(tmp_path, "seed=0,1", f"hydra/launcher={launcher}").wait(400) == 0
    assert equal(weights(tmp_path), weights(plain))
    assert scores(tmp_path) == scores(plain)


@pytest.mark.slow
def test_scores_that_are_there_are_not_made_again(tmp_path: Path, plain: Path):
    folder = tmp_path / "run"
    shutil.copytree(next((plain / "s").glob("*/checkpoints")).parent, folder)
    command = [sys.executable, "scripts/evaluate.py", "-m", f"run={folder}", "sampler=ddim", "sampler.steps=2,3"]
    told, times = [], []
    for more in ([], ["hydra/launcher=joblib"]):
        done = run([*command, *more], cwd=ROOT, timeout=120)
        assert done.returncode == 0, done.stderr
        told.append(done.stderr)
        times.append({path: path.stat().st_mtime_ns for path in folder.glob("evaluation/*/metrics.json")})
    assert "2 finished" in told[0]
    assert "2 skipped" in told[1]
    assert times[0] == times[1]
    assert len(times[0]) == 3


@pytest.mark.slow
def test_a_failed_rank_ends_its_job_and_not_the_sweep(tmp_path: Path):
    """Both ranks of the first job diverge."""
    watched = ["callbacks=[checkpoint,monitor,progress]", "optimizer.lr=1e30,0.001"]
    assert train(tmp_path, *TWO_RANKS, *watched).wait(400) == 1
    states = {path.parent: read_status(path.parent) for path in (tmp_path / "s").glob("*/status.json")}
    (bad,) = (folder for folder, status in states.items() if status["status"] == "failed")
    assert "has diverged" in states[bad]["reason"]
    assert states[bad]["identity"] == bad.name
    assert "DivergedError" in (bad / "traceback.txt").read_text()
    assert len(scores(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "ray"])
def test_two_ranks_inside_a_sweep_give_the_same_numbers(tmp_path: Path, plain: Path, launcher: str):
    job = ["hydra.launcher.n_jobs=1"] if launcher == "joblib" else []
    assert train(tmp_path, "seed=1", *TWO_RANKS, f"hydra/launcher={launcher}", *job).wait(400) == 0
    (cell,) = weights(tmp_path)  # one folder, named as it would be on one rank
    assert equal(weights(tmp_path), {cell: weights(plain)[cell]}, tolerance=1e-6)
    assert scores(tmp_path) == {cell: pytest.approx(scores(plain)[cell], rel=1e-3)}
    assert OmegaConf.load(tmp_path / "s" / cell / "config.yaml").trainer.devices == 2


@pytest.mark.slow
def test_a_killed_sweep_ends_bit_identical(tmp_path: Path):
    swept = ["seed=0,1", "parameterization=epsilon,velocity"]
    assert train(tmp_path / "whole", *swept).wait(400) == 0
    child = train(tmp_path / "cut", *swept)
    moment = random.SystemRandom().random()
    deadline = time.monotonic() + 120
    while len(weights_so_far := list((tmp_path / "cut").glob("s/*/checkpoints/last.ckpt"))) < 1 + 2 * moment:
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
    assert len(finished) < 4
    assert train(tmp_path / "cut", *swept).wait(400) == 0
    assert equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert scores(tmp_path / "cut") == scores(tmp_path / "whole")
    assert len(scores(tmp_path / "cut")) == 4
    for cell, status in finished.items():
        assert (cell / "status.json").read_bytes() == status
    manifests = [json.loads((tmp_path / name / "s" / "sweep.json").read_text()) for name in ("whole", "cut")]
    assert manifests[0]["cells"] == manifests[1]["cells"]
    assert len(manifests[0]["cells"]) == 4
