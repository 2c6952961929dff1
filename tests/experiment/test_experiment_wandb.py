"""W&B offline: each job of a sweep is a run of its own, whatever became of the one before; a resumed run stays one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
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
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


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
