"""Students in training: their curriculum and target go on bit for bit; both passes of a pair drop the same units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import config
from model_folders import run_folder
from test_module import Ranked, same
from torch import nn

from diffusion.experiment.build.build import build_data, build_module, build_trainer

SMALL = ["logger=csv", "evaluation=none", "~callbacks.samples", "~callbacks.progress", "parameterization=velocity"]
SHORT = [*SMALL, "network.channels=8", "trainer.max_steps=6"]
GROWING = ["objective/pairs=doubling", "objective.pairs.first=2", "objective.pairs.last=8"]


def fit(folder: Path, words: list[str], checkpoint: Path | None = None) -> Path:
    """Trains, with a checkpoint kept after three steps."""
    kept = ["callbacks.checkpoint.every_n_train_steps=3", "callbacks.checkpoint.keep_every_n_steps=3"]
    cfg = config(folder, *SHORT, *kept, *words)
    trainer = build_trainer(cfg)
    trainer.fit(build_module(cfg), datamodule=build_data(cfg), ckpt_path=checkpoint, weights_only=True)
    return folder / "checkpoints"


@pytest.mark.parametrize("kind", ["training", "distillation"])
def test_a_curriculum_and_a_target_resume_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    words = [f"objective=consistency_{kind}", *GROWING, "objective.rate=0.9"]
    if kind == "distillation":
        taught = run_folder(tmp_path, "teacher", "parameterization=velocity")
        words.append(f"objective.teacher.run={taught}")
    whole = fit(tmp_path / "whole", words)
    resumed = fit(tmp_path / "resumed", words, whole / "step_0000003.ckpt")
    first, last, again = (
        torch.load(path, weights_only=True)
        for path in (whole / "step_0000003.ckpt", whole / "last.ckpt", resumed / "last.ckpt")
    )
    assert same(last["state_dict"], again["state_dict"])
    assert same(last["objective"], again["objective"])
    assert last["objective"].keys() == {
        name.removeprefix("model.denoiser.") for name in last["state_dict"] if name.startswith("model.denoiser.")
    }
    assert not same(first["objective"], last["objective"])
    student = {name.removeprefix("model.denoiser."): value for name, value in last["state_dict"].items()}
    assert not same(last["objective"], {name: student[name] for name in last["objective"]})


def test_the_student_and_its_target_drop_the_same_units(tmp_path: Path) -> None:
    words = [
        "objective=easy_consistency",
        "objective.pairs.stages=1",
        "objective.pairs.shrink=64",
        "network.dropout=0.5",
    ]
    module = build_module(config(tmp_path, *SMALL, *words, "trainer.max_steps=3"))
    dropped: list[Any] = []
    for part in module.model.denoiser.network.modules():
        if isinstance(part, nn.Dropout) and part.p:
            part.register_forward_hook(lambda part, given, out: dropped.append((out == 0) & (given[0] != 0)))
    for parameter in module.model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    module.trainer = Ranked(1, 0)
    batch = build_data(module_config(tmp_path)).split("train").batch(torch.arange(8))
    module.train()
    module.training_step(batch, 0)
    half = len(dropped) // 2
    assert half > 0
    assert len(dropped) == 2 * half
    assert all(torch.equal(a, b) for a, b in zip(dropped[:half], dropped[half:], strict=True))
    assert all(a.any() for a in dropped)


def module_config(tmp_path: Path) -> Any:
    return config(tmp_path, *SMALL)
