"""trainer=fsdp: shares of weights, averages and optimizer state that train, stop and resume like the whole."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import warm
from conftest import config

from diffusion.evaluation.callback import TrendScore
from diffusion.experiment.task.train import run
from diffusion.sampler.ddim import DDIMSampler
from diffusion.training.callbacks.posthoc import PostHocEMA

ROOT = Path(__file__).parents[2]
SMALL = ["logger=csv", "evaluation=none", "network.channels=8", "conditioner=label", "trainer.val_check_interval=2"]
SMALL += ["callbacks.samples.num_samples=2", "sampler.steps=2", "trainer.log_every_n_steps=1", "trainer.max_steps=5"]
SMALL += ["lr_scheduler=constant"]
SHARDED = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]


def train(*words):
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *map(str, words)]
    return warm.run(command, timeout=200)


def state(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_sharded_run_resumed_sharded_and_then_whole_ends_like_a_whole_one(tmp_path):
    run(config(tmp_path / "whole", *SMALL))
    folder = tmp_path / "shares"
    first = train(*SMALL, *SHARDED, "trainer.max_steps=2", f"hydra.run.dir={folder}")
    assert first.returncode == 0, first.stderr
    second = train(f"resume={folder}", "trainer.max_steps=4")
    assert second.returncode == 0, second.stderr
    assert state(folder)["global_step"] == 4
    assert json.loads((folder / "status.json").read_text())["segments"] == 2
    assert len(list((folder / "samples").glob("step_*.png"))) == 2
    run(config(folder, *SMALL, f"resume={folder}"))
    whole, shares = state(tmp_path / "whole"), state(folder)
    assert whole["state_dict"].keys() == shares["state_dict"].keys()
    torch.testing.assert_close(shares["state_dict"], whole["state_dict"], rtol=1e-4, atol=1e-6)
    mine, theirs = shares["optimizer_states"][0], whole["optimizer_states"][0]
    torch.testing.assert_close(mine["state"], theirs["state"], rtol=1e-4, atol=1e-6)
    assert [group["params"] for group in mine["param_groups"]] == [group["params"] for group in theirs["param_groups"]]


@pytest.mark.parametrize("callback", [PostHocEMA(), TrendScore(DDIMSampler(2))])
def test_what_needs_whole_weights_is_refused(callback):
    with pytest.raises(ValueError, match="trainer=fsdp shards"):
        callback.on_train_start(SimpleNamespace(global_step=0), SimpleNamespace(sharded=True))
