"""Around a training: allocations, a disk that fills or goes, signals; each a sentence, on one rank and on two."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from warm import Popen

from diffusion.errors import ConfigError, DiskError, DivergedError
from diffusion.experiment.build.build import build_data, build_module, build_trainer
from diffusion.experiment.process import ranks

ROOT = Path(__file__).parents[2]
SMALL = ["evaluation=none", "logger=csv", "network.channels=8", "callbacks=[checkpoint,monitor,progress]"]
SMALL += ["data.batch_size=8", "trainer.log_every_n_steps=5", "callbacks.checkpoint.every_n_train_steps=5"]
RANKS = {
    1: ["trainer=cpu"],
    2: ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"],
}


def start(tmp_path: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "scripts/train.py", f"paths.outputs={tmp_path}", "name=r", *SMALL, *words]
    return Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def status(tmp_path: Path) -> dict[str, Any]:
    (file,) = tmp_path.glob("r/*/status.json")
    return json.loads(file.read_text())


ALONE = [
    {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "3", "SLURM_LOCALID": "3"},
    {"SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NAME": "bash", "SLURM_NNODES": "2"},
    {"RANK": "2", "LOCAL_RANK": "2"},
]


@pytest.mark.slow
@pytest.mark.parametrize("variables", ALONE, ids=lambda found: "-".join(found))
def test_a_process_alone_in_an_allocation_is_the_first_rank(variables: dict[str, str], tmp_path: Path):
    """It trains and logs, whatever the allocation's other tasks are."""
    job = start(tmp_path, "trainer=cpu", "trainer.max_steps=5", SLURM_JOB_ID="77", **variables)
    _, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    (metrics,) = tmp_path.glob("r/*/metrics.csv")
    assert len(metrics.read_text().splitlines()) == 2


@pytest.mark.slow
def test_two_tasks_of_srun_train_together_without_more_variables(tmp_path: Path):
    known = {"SLURM_JOB_ID": "1077", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
    known |= {"SLURM_JOB_NAME": "bash", "SLURM_NODEID": "0", "MASTER_PORT": "29377", "SLURM_NTASKS_PER_NODE": "8"}
    jobs = [
        start(tmp_path, *RANKS[2], "trainer.max_steps=5", **known, SLURM_PROCID=str(n), SLURM_LOCALID=str(n))
        for n in (0, 1)
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=300)
        assert job.returncode == 0, errors
    assert status(tmp_path)["status"] == "finished"


def test_other_ranks_than_the_trainer_asks_for_are_refused(monkeypatch: pytest.MonkeyPatch, train_config):
    for name, value in {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"4 ranks were started, and trainer\.devices=2 .* asks for 2"):
        ranks.wanted_ranks(train_config("trainer=cpu", "trainer.devices=2"))
    assert ranks.wanted_ranks(train_config("trainer=cpu", "trainer.devices=4")) == 4


def test_devices_that_the_machine_does_not_have_are_refused(monkeypatch: pytest.MonkeyPatch, train_config):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=r"torch finds no GPU.*trainer=auto"):
        ranks.wanted_ranks(train_config("trainer=gpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for devices in ("3", "[0,2]"):
        with pytest.raises(ConfigError, match=r"this machine has 2 GPUs"):
            ranks.wanted_ranks(train_config("trainer=gpu", f"trainer.devices={devices}"))
    assert ranks.wanted_ranks(train_config("trainer=ddp")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", RANKS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_one_sentence_with_how_to_go_on(count: int, number: signal.Signals, tmp_path: Path):
    job = start(tmp_path, *RANKS[count], "trainer.max_steps=100000")
    while not list(tmp_path.glob("r/*/checkpoints/last.ckpt")) and job.poll() is None:
        time.sleep(0.1)
    if number == signal.SIGINT:  # a terminal sends it to all
        os.killpg(job.pid, number)
    else:
        job.send_signal(number)
    out, errors = job.communicate(timeout=300)
    assert job.returncode == 128 + number
    assert "Traceback" not in out + errors
    (said,) = re.findall(r"the run stops here; resume=(\S+) continues it", out + errors)
    assert Path(said) == next(tmp_path.glob("r/*"))
    assert status(tmp_path)["status"] == "preempted"


@pytest.mark.slow
@pytest.mark.parametrize("count", RANKS)
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("optimizer.lr=1e30 trainer.gradient_clip_val=null", "training has diverged"),
        ("data.batch_size=9000", "larger than the 900 training images; set data.batch_size"),
    ],
)
def test_an_error_of_the_users_is_one_sentence_and_code_2(count: int, words: str, reason: str, tmp_path: Path):
    job = start(tmp_path, *RANKS[count], *words.split())
    out, errors = job.communicate(timeout=300)
    assert job.returncode == 2
    assert "Traceback" not in out + errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert reason in line
    assert reason in status(tmp_path)["reason"]


def fit(make: Callable[..., DictConfig], folder: Path, *words: str, on_step: Callable[[int], None]) -> None:
    import pytorch_lightning as pl

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            on_step(trainer.global_step)
            if "nan" in words and trainer.global_step == 5:
                next(module.parameters()).data.fill_(torch.nan)

    words = (*words, "data.batch_size=8", "callbacks.checkpoint.every_n_train_steps=2", "trainer.log_every_n_steps=100")
    cfg = make("trainer=cpu", "trainer.max_steps=8", *(word for word in words if "=" in word), folder=folder)
    cfg.trainer.default_root_dir = str(folder)
    data, module = build_data(cfg), build_module(cfg)
    build_trainer(cfg, extra=[Watch()]).fit(module, datamodule=data)


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, train_config):
    said = r"not finite at step 6: training has diverged; .*last\.ckpt, the last with finite weights, is kept"
    with pytest.raises(DivergedError, match=said):
        fit(train_config, tmp_path / "run", "nan", on_step=lambda step: None)
    kept = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_a_run_folder_that_goes_ends_the_training_and_is_not_made_again(tmp_path: Path, train_config):
    run = tmp_path / "disk" / "run"

    def unmount(step: int) -> None:
        if step == 3 and run.exists():
            run.rename(tmp_path / "elsewhere")

    with pytest.raises(DiskError, match=r"last\.ckpt cannot be written: No such file or directory; a disk"):
        fit(train_config, run, on_step=unmount)
    assert not run.exists()
    assert [file.name for file in (tmp_path / "elsewhere" / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "elsewhere/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_record_says_so(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting a disk needs root")
    try:
        job = start(disk, "trainer=cpu", "trainer.max_steps=10", "network.channels=16")
        out, errors = job.communicate(timeout=300)
        assert job.returncode == 2
        assert "Traceback" not in out + errors
        (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert re.search(r"last\.ckpt cannot be written: No space left on device; make room", line)
        found = status(disk)
        assert found["status"] == "failed"
        assert line.removeprefix("error: ") == found["reason"]
        assert not list(disk.rglob("*.part"))
    finally:
        subprocess.run(["umount", disk], check=True)
