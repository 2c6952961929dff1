"""The scripts as a user runs them: killed, asked to stop, resumed; and a run folder as documented."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import warm

ROOT = Path(__file__).parents[2]
TINY = ["network.channels=8", "logger=csv", "evaluation=none", "~callbacks.samples", "trainer.log_every_n_steps=10"]
TINY += ["trainer.max_steps=120", "trainer.val_check_interval=60", "conditioner=label", "network.dropout=0.1"]
TINY += ["callbacks.checkpoint.every_n_train_steps=25"]


def command(*words):
    return [sys.executable, str(ROOT / "scripts" / "train.py"), *map(str, words)]


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def status(run):
    return json.loads((run / "status.json").read_text())["status"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    warm.run(command(*TINY, f"hydra.run.dir={run}"), check=True)
    assert status(run) == "finished"
    return weights(run)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_resumes_to_the_same_bits(undisturbed, tmp_path, signum):
    run = tmp_path / "run"
    job = warm.Popen(command(*TINY, f"hydra.run.dir={run}"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.02)
    job.send_signal(signum)
    code = job.wait(60)
    if signum == signal.SIGTERM:
        assert code == 143
        assert status(run) == "preempted"
    stopped_at = weights(run)["global_step"]
    assert stopped_at < 120, "the run was over before it could be stopped"
    warm.run(command(f"resume={run}"), check=True)
    assert status(run) == "finished"
    resumed = weights(run)
    assert resumed["global_step"] == undisturbed["global_step"] == 120
    for name, value in undisturbed["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name


@pytest.mark.slow
def test_a_run_folder_is_as_documented(tmp_path):
    run = tmp_path / "run"
    small = ["network.channels=8", "trainer.max_steps=3", "trainer.val_check_interval=2", "sampler.steps=2"]
    small += ["callbacks.samples.num_samples=4", "evaluation.num_samples=40"]
    warm.run(command(*small, f"hydra.run.dir={run}"), check=True)
    table = re.findall(r"^\| `([^`]+)`.*?\| (.*)", (ROOT / "docs" / "run_folder.md").read_text(), re.M)
    assert len(table) > 8
    for path, said in table:
        if not path.startswith("samples/<settings>") and not said.startswith("with `"):  # of sample.py, of an option
            pattern = re.sub(r"<[^>]+>", "*", path).rstrip("/")
            assert list(run.glob(pattern)), f"docs/run_folder.md promises {path}"
    result = json.loads(next(run.glob("evaluation/*/metrics.json")).read_text())
    assert {"metrics", "floor", "fingerprint"} <= result.keys()
    assert all(isinstance(value, float) for value in result["metrics"].values())
    assert result["metrics"].keys() == result["floor"].keys()
    assert any(row["train/loss"] for row in csv.DictReader((run / "metrics.csv").open()))
    assert [p.name for p in tmp_path.iterdir()] == ["run"], "something was written outside the run folder"
