"""W&B offline: each job of a sweep is a run of its own, whatever became of the one before; a resumed run stays one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from test_experiment_launchers import ROOT, TINY

from diffusion.reporting.runs import find
from diffusion.reporting.wandb_files import read

pytest.importorskip("wandb")
FD = "fd_digits-cnn-v1_32"
OFFLINE = [
    *(line for line in TINY if not line.startswith(("logger", "callbacks="))),
    "callbacks=[checkpoint,monitor,progress]",
    "logger.wandb.mode=offline",
    "tags=[a]",
]


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    named = {line.partition("=")[0] for line in arguments}
    rest = [line for line in OFFLINE if line.partition("=")[0] not in named]
    command = [sys.executable, "scripts/train.py", *arguments, *rest]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}
    return warm.run(command, cwd=ROOT, env=environment, timeout=120)


@pytest.mark.slow
def test_a_job_that_failed_does_not_leak_into_the_next(tmp_path: Path):
    """The first diverges after W&B has begun its run."""
    done = train(
        "-m", f"paths.outputs={tmp_path}", "name=s", "optimizer.lr=1e30,0.001", "trainer.gradient_clip_val=null"
    )
    assert done.returncode == 1, done.stderr
    files = list((tmp_path / "s").glob("*/wandb/offline-run-*/*.wandb"))
    runs = {segment.config["optimizer"]["lr"]: segment for segment in map(read, files)}
    assert runs.keys() == {1e30, 0.001}
    bad, good = runs[1e30], runs[0.001]
    assert bad.id != good.id
    assert {bad.group, good.group} == {"s"}
    assert good.name == "optimizer.lr=0.001"
    assert (bad.exit_code, good.exit_code) == (1, 0)
    assert not any(f"evaluation/{FD}" in row for row in bad.rows)
    (score,) = (row[f"evaluation/{FD}"] for row in good.rows if f"evaluation/{FD}" in row)
    assert any("evaluation" in row for row in good.rows), "a table with the fingerprint"
    assert good.config["fingerprint"]["extractor"]["name"] == "digits-cnn-v1"
    assert good.config["run"]["parameters"] > 0
    assert good.config["run"]["git"].keys() >= {"commit"}
    elsewhere = tmp_path / "elsewhere"  # the offline folders alone, as they are copied from another machine
    for folder in {path.parent for path in files}:
        shutil.copytree(folder, elsewhere / folder.name)
    copied = {run.settings["optimizer.lr"]: run for run in find([elsewhere])[0]}
    assert copied[0.001].evaluations[0].metrics == {FD: score}
    assert copied[0.001].evaluations[0].fingerprint["samples"]["num"] == 32
    assert (copied[1e30].status["status"], copied[1e30].evaluations) == ("failed", [])


@pytest.mark.slow
def test_a_resumed_run_is_one_run_by_global_step(tmp_path: Path):
    run = tmp_path / "run"
    assert train(f"hydra.run.dir={run}").returncode == 0
    done = train(f"resume={run}", "trainer.max_steps=8")
    assert done.returncode == 0, done.stderr
    assert len(list(run.glob("wandb/offline-run-*"))) == 2
    ((copied,), notes) = find([run / "wandb"])
    assert notes == []
    assert [step for step, _ in copied.curves["train/loss"]] == [2, 4, 6, 8]
    assert copied.status == {"status": "finished", "segments": 2}


KEY = "a" * 40
UNUSABLE = {
    "an empty key": ({"WANDB_API_KEY": ""}, "WANDB_API_KEY is empty"),
    "a short key": ({"WANDB_API_KEY": "abc"}, "API key must have"),
    "an empty mode": ({"WANDB_MODE": ""}, "WANDB_MODE is one of online, offline"),
    "an odd mode": ({"WANDB_MODE": "on", "WANDB_API_KEY": KEY}, "WANDB_MODE is one of online, offline"),
    "no network": ({"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY}, "connect"),
    "no address": ({"WANDB_BASE_URL": "nowhere", "WANDB_API_KEY": KEY}, "URL"),
}
LOG = """
import logging, sys, time
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
from diffusion.training.loggers.wandb import WandbRunLogger
start = time.monotonic()
logger = WandbRunLogger(sys.argv[1], tags=["a"])
print("seconds", time.monotonic() - start)
logger.log_metrics({"loss": 3.0}, step=2)
logger.finalize("success")
import wandb
wandb.finish()
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_wandb_cannot_use_is_one_warning_and_an_offline_run(name: str, tmp_path: Path):
    variables, reason = UNUSABLE[name]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    done = warm.run(
        [sys.executable, "-c", LOG, str(tmp_path)],
        env={**clean, "HOME": str(tmp_path), **variables}, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    warning, seconds = done.stdout.splitlines()
    assert warning.startswith("WARNING W&B cannot be used (")
    assert reason in warning
    assert warning.endswith("this run is offline and training goes on")
    assert float(seconds.split()[1]) < 15  # four of them wait for an answer, the others start its service, twice
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert read(file).rows[0]["loss"] == 3.0
