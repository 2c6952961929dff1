"""One run folder under random sequences of what users do to it: train on, be refused, be killed, sample, score."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from script_results import ROOT, attempt, snapshot
from warm import Popen

from diffusion.experiment.run.history import read_history
from diffusion.experiment.run.saved_config import read_resolved
from diffusion.experiment.run.status import read_status

SMALL = (
    "evaluation=none", "logger=csv", "callbacks.samples.num_samples=4", "sampler.steps=2", "network.channels=8",
    "lr_scheduler=constant", "lr_scheduler.warmup=0", "optimizer.lr=0.001", "trainer.max_steps=4",
    "callbacks.checkpoint.every_n_train_steps=2",
)  # fmt: skip
REFUSED = ("data.batch_size=32", "seed=1", "network.channels=16", "trainer.max_steps=1", "optimizer.lrr=1", "name=y",
           "schedule=linear", "-m")  # fmt: skip
RATES = st.sampled_from([1e-3, 5e-4, 1e-4])
_made: dict[str, Path] = {}


def made() -> Path:
    if "run" not in _made:
        outputs = Path(tempfile.mkdtemp())
        code, shown = attempt("train", "name=x", f"paths.outputs={outputs}", *SMALL)
        assert code == 0, shown
        (_made["run"],) = (outputs / "x").iterdir()
    return _made["run"]


class RunFolder(RuleBasedStateMachine):
    """The model: the rate of every step that the weights have taken, and the results that were ever finished."""

    @initialize()
    def copy(self) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.run = shutil.copytree(made(), self.home / "run")
        self.rates = [1e-3] * 4
        self.next_rate = 1e-3
        self.results: dict[str, bytes] = {}

    def checkpoint(self) -> dict[str, Any]:
        return torch.load(self.run / "checkpoints" / "last.ckpt", weights_only=True)

    def took(self, rate: float) -> None:
        step = self.checkpoint()["global_step"]
        self.rates += [rate] * (step - len(self.rates))

    @rule(steps=st.integers(0, 2), rate=st.none() | RATES)
    def resume(self, steps: int, rate: float | None) -> None:
        words = [f"trainer.max_steps={len(self.rates) + steps}"] + ([f"optimizer.lr={rate}"] if rate else [])
        code, shown = attempt("train", f"resume={self.run}", *words)
        assert code == 0, shown
        self.next_rate = rate or self.next_rate
        self.took(self.next_rate)
        assert self.checkpoint()["global_step"] == len(self.rates)
        assert (read_status(self.run) or {})["status"] == "finished"

    @rule(word=st.sampled_from(REFUSED), more=st.booleans())
    def refused(self, word: str, more: bool) -> None:
        before = snapshot(self.home)
        words = [word, f"resume={self.run}", *([f"optimizer.lr={1e-5}"] if more else [])]
        code, shown = attempt("train", *words)
        assert code == 2, shown
        assert snapshot(self.home) == before

    @rule(rate=RATES)
    def killed(self, rate: float) -> None:
        last = self.run / "checkpoints" / "last.ckpt"
        before, words = (
            last.stat().st_mtime_ns,
            [f"resume={self.run}", "trainer.max_steps=100000", f"optimizer.lr={rate}"],
        )
        child = Popen(
            [sys.executable, str(ROOT / "scripts" / "train.py"), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while last.stat().st_mtime_ns == before and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.next_rate = rate
        self.took(rate)
        status = read_status(self.run) or {}
        assert (status["status"], status.get("killed")) == ("failed", True)

    @rule(seed=st.integers(0, 1))
    def sample(self, seed: int) -> None:
        self.draw("sample", f"run={self.run}", "num_samples=2", f"seed={seed}")

    @rule(seed=st.integers(0, 1))
    def evaluate(self, seed: int) -> None:
        few = ["evaluation=digits", "evaluation.num_samples=16", "evaluation.metrics=[fd]", f"evaluation.seed={seed}"]
        self.draw("evaluate", f"run={self.run}", *few)

    def draw(self, script: str, *words: str) -> None:
        code, shown = attempt(script, *words)
        assert code == 0, shown
        for kind in ("samples", "evaluation"):
            for name, content in snapshot(self.run / kind).items():
                if name.endswith(("metrics.json", ".npz")):
                    self.results.setdefault(f"{kind}/{name}", result(name, content))

    @invariant()
    def the_record_tells_the_rate_of_every_step(self) -> None:
        if not hasattr(self, "run"):
            return
        recorded = [torch.nan] * len(self.rates)
        started = read_started(self.run)
        for step in range(len(self.rates)):
            recorded[step] = started
            for entry in read_history(self.run):
                if entry["from_step"] <= step and "optimizer.lr" in entry["changes"]:
                    recorded[step] = entry["changes"]["optimizer.lr"][1]
        assert recorded == self.rates
        config = read_resolved(self.run)
        assert config.optimizer.lr == self.next_rate
        assert config.trainer.max_steps >= len(self.rates)

    @invariant()
    def no_finished_result_is_lost(self) -> None:
        for name, content in getattr(self, "results", {}).items():
            kept = (self.run / name.partition("/")[0]).rglob(Path(name).name)
            assert content in [result(name, path.read_bytes()) for path in kept], name

    def teardown(self) -> None:
        if hasattr(self, "home"):
            shutil.rmtree(self.home, ignore_errors=True)


def result(name: str, content: bytes) -> Any:
    """What a file says that does not depend on how long it took."""
    return content if name.endswith(".npz") else json.loads(content)["metrics"]


def read_started(run: Path) -> float:
    from omegaconf import OmegaConf

    return float(OmegaConf.load(run / "config.yaml").optimizer.lr)


@pytest.mark.slow
def test_whatever_is_done_to_a_run_its_record_is_true_and_its_results_stay() -> None:
    run_state_machine_as_test(
        RunFolder,
        settings=settings(
            max_examples=5,
            stateful_step_count=9,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
