"""Trainings with a second player, a second time, learned weights or kept pairs go on as if never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import config
from model_folders import run_folder
from test_module import same

from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build_data, build_module, build_trainer

QUIET = ["logger=csv", "evaluation=none", "~callbacks.samples", "~callbacks.progress"]
NETWORK = ["network=mlp", "network.width=16", "network.depth=1", "parameterization=velocity"]
RUNS = {
    "mean_flow": ["network.numbers=[to]", "schedule=flow", "network.dropout=0.2"],
    "shortcut": ["network.numbers=[to]", "schedule=flow", "objective.bootstrap=0.5"],
    "continuous_consistency": ["schedule=trig", "parameterization=edm", "objective.warmup=4"],
    "continuous_distillation": ["schedule=trig", "parameterization=edm", "objective.warmup=4"],
    "reflow": ["objective.steps=2"],
    "distribution_matching": ["objective.ratio=2", "objective.adversarial=0.1", "objective.features=middle"],
    "score_identity": [],
}


def fit(cfg: Any, checkpoint: Path | None = None) -> dict[str, Any]:
    module = build_module(cfg)
    build_trainer(cfg).fit(module, datamodule=build_data(cfg), ckpt_path=checkpoint, weights_only=True)
    return torch.load(Path(cfg.paths.run) / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_student_resumes_to_the_same_bits(tmp_path: Path, name: str) -> None:
    keys = [*QUIET, *NETWORK, f"objective={name}", *RUNS[name]]
    if name in ("continuous_distillation", "reflow", "distribution_matching", "score_identity"):
        schedule = ["schedule=trig", "parameterization=edm"] if "continuous" in name else []
        teacher = run_folder(tmp_path, "teacher", "seed=1", "parameterization=velocity", *schedule)
        keys.append(f"objective.teacher.run={teacher}")
    whole = fit(config(tmp_path / "whole", *keys, "trainer.max_steps=5"))
    first = fit(config(tmp_path / "part", *keys, "trainer.max_steps=3"))
    assert not same(first["state_dict"], whole["state_dict"])
    resumed = fit(
        config(tmp_path / "part", *keys, "trainer.max_steps=5"), tmp_path / "part" / "checkpoints" / "last.ckpt"
    )
    assert same(whole["state_dict"], resumed["state_dict"])
    assert same(whole.get("rival"), resumed.get("rival"))
    assert ("extra.weight.weight" in whole["state_dict"]) == name.startswith("continuous")
    if name == "reflow":
        assert len(list((tmp_path / "part" / "reflow").rglob("*.pt"))) == 5


def test_a_flow_map_without_a_second_time_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for name in ("mean_flow", "shortcut"):
        with pytest.raises(ConfigError, match=r"set network\.numbers=\[to\]"):
            build_module(config(tmp_path, *QUIET, *NETWORK, f"objective={name}", "schedule=flow"))
