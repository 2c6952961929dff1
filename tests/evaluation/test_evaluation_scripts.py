"""The evaluation scripts: two ranks of Lightning, one process, torchrun and the images themselves say the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import warm
from omegaconf import OmegaConf

from diffusion.errors import ConfigError

ROOT = Path(__file__).parents[2]
DRAW = ["evaluation.num_samples=70", "evaluation.batch_size=16", "evaluation.save_samples=true"]
TWO = ["trainer.accelerator=cpu", "trainer.devices=2"]

FINGERPRINT = [
    "extractor/name", "extractor/weights_sha256", "extractor/resize", "quantisation", "reference/key",
    "reference/content", "reference/preprocessing", "reference/split", "reference/num", "samples/num", "samples/labels",
    "samples/seed", "samples/sampler/class", "samples/sampler/steps", "samples/sampler/spacing", "samples/guidance",
    "samples/dtype", "samples/weights_sha256", "about/weights", "about/checkpoint_sha256", "numerics/tf32_matmul",
    "numerics/tf32_convolution", "versions/torch", "versions/torch-fidelity", "cost/nfe_per_sample",
    "cost/wall_seconds", "cost/peak_memory_bytes/process", "cost/device",
]  # fmt: skip
"""What a number depends on, and what it cost."""


def call(*command: str, fails: bool = False) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}
    done = warm.run([*command], cwd=ROOT, env=environment, timeout=300)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def script(name: str, *overrides: str, fails: bool = False) -> str:
    return call(sys.executable, f"scripts/{name}.py", *overrides, fails=fails)


def taken(folder: Path) -> dict[str, Any]:
    """The one result below ``folder``, which is removed."""
    (path,) = folder.rglob("metrics.json")
    result = json.loads(path.read_text())
    path.unlink()
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on two ranks, scored at its end by both."""
    outputs = tmp_path_factory.mktemp("outputs")
    script(
        "train", "name=r", f"paths.outputs={outputs}", "trainer=ddp", *TWO, "trainer.precision=32-true",
        "trainer.max_steps=2", "network.channels=8", "sampler=ddim", "sampler.steps=2", "logger=csv",
        "callbacks=[checkpoint,trend]", "callbacks.trend.every_n_train_steps=2", "callbacks.trend.num_samples=70",
        *DRAW,
    )  # fmt: skip
    (folder,) = (outputs / "r").iterdir()
    return folder


@pytest.fixture(scope="module")
def in_training(run: Path) -> dict[str, Any]:
    return taken(run)


@pytest.mark.slow
def test_every_way_to_score_says_the_same(run: Path, in_training: dict[str, Any]) -> None:
    assert "trend/fd_digits-cnn-v1_70x10_trend" in "".join(path.read_text() for path in run.rglob("metrics.csv"))
    script("evaluate", f"run={run}")
    alone = taken(run)
    assert alone["metrics"] == in_training["metrics"]
    assert alone["floor"] == in_training["floor"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3"]
    call(*torchrun, "scripts/evaluate.py", f"checkpoint={run / 'checkpoints' / 'last.ckpt'}")
    joined = taken(run)
    assert joined["metrics"] == alone["metrics"]
    assert joined["fingerprint"]["cost"]["ranks"] == 3
    for path in FINGERPRINT:
        found = joined["fingerprint"]
        for key in path.split("/"):
            assert key in found, path
            found = found[key]
    images = next(run.rglob("samples.npz"))
    more = ["data=digits", "evaluation=digits", "evaluation.batch_size=16", f"output={run / 'images'}"]
    script("evaluate", f"images={images}", *more)
    assert taken(run / "images")["metrics"] == alone["metrics"]


@pytest.mark.slow
def test_a_reference_made_ahead_is_found(run: Path, in_training: dict[str, Any], tmp_path: Path) -> None:
    settings = ["evaluation.batch_size=16", f"evaluation.cache={tmp_path}"]
    script("reference", f"paths.outputs={tmp_path / 'outputs'}", *settings)
    (made,) = tmp_path.glob("*.safetensors")
    before = made.stat().st_mtime_ns
    script("evaluate", f"run={run}", *DRAW, *settings)
    assert taken(run)["fingerprint"]["reference"]["key"] == made.stem
    assert made.stat().st_mtime_ns == before
    assert list(tmp_path.glob("*.safetensors")) == [made]


@pytest.mark.slow
def test_two_machines_and_a_plan(run: Path, in_training: dict[str, Any]) -> None:
    """A plan on one process leaves batches that two agents of torchrun, as on two machines, go on from."""
    said = script("evaluate", f"run={run}", "plan=true", *DRAW)
    assert "70 samples, 2 network calls each: 5 batches, 3 of them on disk. About " in said
    assert not list(run.rglob("metrics.json"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = [
        warm.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1",
             "--master-addr=127.0.0.1", f"--master-port={port}", "--rdzv-id=two", "scripts/evaluate.py", f"run={run}",
             "trainer.accelerator=cpu", *DRAW],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    told = [agent.communicate(timeout=200)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], told
    result = taken(run)
    assert result["fingerprint"]["cost"]["ranks"] == 2
    assert result["metrics"] == in_training["metrics"]


@pytest.mark.parametrize(
    ("trainer", "local_rank", "gpus", "expected"),
    [
        ({"accelerator": "gpu", "devices": 2}, 1, 2, "cuda:1"),
        ({"accelerator": "gpu", "devices": [1]}, 0, 2, "cuda:1"),
        ({"accelerator": "auto", "devices": "0,3"}, 1, 4, "cuda:3"),
        ({"accelerator": "auto", "devices": 1}, 0, 0, "cpu"),
        ({"accelerator": "cpu", "devices": 8}, 7, 2, "cpu"),
        (None, 0, 1, "cuda:0"),
        ({"accelerator": "gpu", "devices": 1}, 0, 0, None),
        ({"accelerator": "gpu", "devices": 3}, 2, 2, None),
        ({"accelerator": "auto", "devices": 3}, 2, 2, None),
        ({"accelerator": "gpu", "devices": [5]}, 0, 2, None),
    ],
)
def test_a_rank_has_its_gpu_or_says_that_there_is_none(
    trainer: dict | None, local_rank: int, gpus: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion.experiment.task.evaluate import process_group

    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    wanted = process_group(OmegaConf.create({"trainer": trainer}))
    if expected is None:
        with pytest.raises(ConfigError, match=rf"has no GPU of its own: this machine has {gpus}"), wanted:
            pass
    else:
        with wanted as where:
            assert where == torch.device(expected)


def test_the_first_batches_say_how_long_the_rest_will_take(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two blocks of samples: seconds of each batch are those of this rank and of what others did meanwhile."""
    from diffusion.experiment.task import evaluate

    now = iter((100.0, 160.0, 220.0, 1000.0, 1010.0))
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with caplog.at_level("INFO"), evaluate.progress() as show:
        for done in (1, 3, 5, 1, 2):
            show("sampling", done, 101)
    assert [record.getMessage() for record in caplog.records] == [
        "sampling: 101 batches",
        "sampling: 3 of 101 batches, about 49 min to go",
        "sampling: 101 batches",
        "sampling: 2 of 101 batches, about 16 min to go",
    ]


@pytest.mark.slow
def test_what_cannot_be_scored_is_said_in_one_sentence(run: Path, tmp_path: Path) -> None:
    said = script("evaluate", f"run={run}", "evaluation.num_samples=9", fails=True)
    assert "error: the inception score is averaged over 10 splits, which 9 samples cannot fill" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "nothing to score; give run="),
        (["images=x.npz"], "add evaluation=<name>"),
        (["images=x.npz", "evaluation=digits"], "add data=<name>"),
        (["images=x.npz", "run=y"], "give one of them"),
        (["images=x.npz", "data=digits", "evaluation=digits", "plan=true"], "images are drawn already"),
        (["checkpoint=elsewhere/a.ckpt"], "lies in no run folder"),
    ],
)
def test_a_command_line_without_a_subject_is_refused(overrides: list[str], message: str) -> None:
    assert message in script("evaluate", *overrides, fails=True)
