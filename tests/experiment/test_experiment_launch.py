"""Several ranks from one resolved config: the same parameters on each, one failure ends all, none outlives the job."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from diffusion.errors import ConfigError
from diffusion.experiment.process.ranks import joined, rank, shared_id, wanted_ranks
from diffusion.experiment.run.status import read_status

TASK = """
import os, signal, time
from pathlib import Path

def main(cfg):
    rank, folder = int(os.environ["RANK"]), Path(cfg.folder)
    if cfg.mode == "sum":
        import torch, torch.distributed as dist
        from diffusion.experiment.process.allocator import allocator
        dist.init_process_group("gloo")
        total = torch.tensor([cfg.lr * (rank + 1)], dtype=torch.float64)
        dist.all_reduce(total)
        dist.destroy_process_group()
        (folder / f"sum{rank}").write_text(repr((total.item(), cfg.nested.twice, allocator())))
    elif rank == 1 and cfg.mode in ("fail", "deaf"):
        raise ValueError("a bad learning rate")
    elif rank == 1 and cfg.mode == "kill":
        os.kill(os.getpid(), 9)
    else:
        if cfg.mode == "deaf":  # as one that waits for the failed rank in a collective
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / f"pid{rank}").write_text(str(os.getpid()))
        time.sleep(60)
"""
JOB = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from diffusion.experiment.launch.elastic import launch
from diffusion.experiment.run.record import Record
folder = Path(sys.argv[1])
cfg = OmegaConf.create({"folder": str(folder), "mode": sys.argv[2], "lr": 0.1, "trainer": {"devices": 2},
                        "keep_freed_memory": True, "nested": {"twice": "${lr}"}})
with Record(folder, cfg):
    launch(folder, cfg, "task_of_the_test:main")
assert "torch" not in sys.modules
"""


def job(folder: Path, mode: str) -> subprocess.Popen[str]:
    (folder / "task_of_the_test.py").write_text(TASK)
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(folder), mode], env=environment, stderr=subprocess.PIPE, text=True
    )


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def ranks_sleep(folder: Path) -> list[int]:
    deadline = time.monotonic() + 60
    while not all((folder / f"pid{i}").exists() and (folder / f"pid{i}").read_text() for i in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [int((folder / f"pid{i}").read_text()) for i in (0, 1)]


def all_gone(pids: list[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not all(map(gone, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
def test_two_ranks_of_one_group_read_the_same_config(tmp_path: Path):
    done = job(tmp_path, "sum")
    assert done.wait(120) == 0, done.stderr.read()
    both = {(tmp_path / f"sum{i}").read_text() for i in (0, 1)}
    kept = "keeps freed memory" if platform.libc_ver()[0] == "glibc" else "system"
    assert both == {repr((0.1 + 0.2, 0.1, kept))}
    assert read_status(tmp_path)["status"] == "finished"
    assert not (tmp_path / ".ranks").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("fail", "rank 1: ValueError: a bad learning rate"),
        ("deaf", "rank 1: ValueError: a bad learning rate"),
        ("kill", "rank 1 was ended by SIGKILL"),
    ],
)
def test_a_rank_that_fails_ends_the_job_within_seconds(tmp_path: Path, mode: str, reason: str):
    start = time.monotonic()
    child = job(tmp_path, mode)
    assert child.wait(60) == 1
    assert time.monotonic() - start < 25
    status = read_status(tmp_path)
    assert status["status"] == "failed"
    assert status["reason"] == reason
    if mode != "kill":
        assert "raise ValueError" in (tmp_path / "traceback.txt").read_text()
    survivor = tmp_path / "pid0"
    assert not survivor.exists() or all_gone([int(survivor.read_text())])


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_ranks_do_not_outlive_their_job(tmp_path: Path, signum: int, code: int):
    child = job(tmp_path, "sleep")
    pids = ranks_sleep(tmp_path)
    child.send_signal(signum)
    assert child.wait(30) == code
    assert all_gone(pids)
    status = read_status(tmp_path)
    assert status["status"] == ("preempted" if signum == signal.SIGTERM else "failed")


@pytest.mark.parametrize(
    ("trainer", "count"),
    [
        ({}, 1),
        ({"devices": 2}, 2),
        ({"devices": "3"}, 3),
        ({"devices": [0, 2]}, 2),
        ({"devices": "0,2,3"}, 3),
        ({"devices": "auto", "accelerator": "cpu"}, 1),
        ({"devices": -1, "accelerator": "cpu"}, 1),
    ],
)
def test_how_many_ranks_a_trainer_asks_for(trainer: dict, count: int):
    assert wanted_ranks(OmegaConf.create({"trainer": trainer})) == count
    assert wanted_ranks(OmegaConf.create({})) == 1


def test_several_machines_are_joined_and_never_started(monkeypatch: pytest.MonkeyPatch):
    cfg = OmegaConf.create({"trainer": {"num_nodes": 2, "devices": 4}})
    with pytest.raises(ConfigError, match="torchrun"):
        wanted_ranks(cfg)
    assert (joined(), rank(), shared_id()) == (False, 0, None)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert wanted_ranks(cfg) == 4
    assert (joined(), rank()) == (True, 5)
    with pytest.raises(ConfigError, match="--rdzv-id"):
        shared_id()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "night")
    assert shared_id() == "torchrun-night"


def test_srun_is_joined(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not joined()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert (joined(), rank(), shared_id()) == (True, 3, "slurm-7-0")


def test_the_job_of_a_failed_launch_can_be_read_again(tmp_path: Path):
    from diffusion.experiment.launch.elastic import _failure

    assert _failure(tmp_path) is None
    for number, when in ((0, 2.0), (1, 1.0)):
        told = {"rank": number, "when": when, "error": f"E{number}", "traceback": "..."}
        (tmp_path / f"rank{number}.json").write_text(json.dumps(told))
    assert _failure(tmp_path).startswith("rank 1: E1")
