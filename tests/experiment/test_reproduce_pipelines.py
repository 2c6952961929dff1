"""A table whose cells score unCLIP's chain, with its prior and without, planned and run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from test_unclip_job import CLIP, CODER, SMALL, STAGES

from diffusion.errors import ConfigError
from diffusion.experiment.config.overrides import quote
from diffusion.experiment.reproduce.cells import Settings, configs, measured, run
from diffusion.experiment.reproduce.pipelines import scored
from diffusion.experiment.task.cost import cost
from diffusion.reporting.ablation import Ablation

PRIOR = f"experiment=emoji_prior,{SMALL.replace(' ', ',')},{STAGES['prior'].replace(' ', ',')}"
NODE = {
    "title": "T", "source": "S", "data": "D", "protocol": "P", "metrics": ["clip_score_efficientnet-lite0_4"],
    "train": [
        "experiment=emoji_decoder", *SMALL.split(), *STAGES["decoder"].split(), "~callbacks.samples",
        f"needs.prior=[{PRIOR}]", f"needs.judge=[{CLIP},seed=1]",
    ],
    "evaluate": [
        "evaluation=emoji", "evaluation.metrics=[clip_score]", "evaluation.num_samples=4", "evaluation.batch_size=4",
        "evaluation.clip.run=${needed:judge}",
    ],
    "cells": {
        name: {"evaluate": [
            "pipeline=unclip", f"pipeline.embedding={name}", "pipeline.prior.run=${needed:prior}",
            "pipeline.decoder.guidance.classifier_free.scale=3.0",
        ]} for name in ("prior", "none")
    },
}  # fmt: skip


def test_a_cell_names_its_training_as_the_last_stage_and_its_needs_as_the_others(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("needs: {prior: {run: somewhere/prior}, judge: {run: somewhere/judge}}\n")
    lines = ["pipeline=unclip", "pipeline.prior.run=${needed:prior}", "evaluation.clip.run=${needed:judge}"]
    assert scored(lines, tmp_path) == [
        "run=null", f"pipeline.decoder.run={quote(str(tmp_path))}", "pipeline=unclip",
        f"pipeline.prior.run={quote(os.path.abspath('somewhere/prior'))}",
        f"evaluation.clip.run={quote(os.path.abspath('somewhere/judge'))}",
    ]  # fmt: skip
    assert scored(["sampler=ddim"], tmp_path) == [f"run={quote(str(tmp_path))}", "sampler=ddim"]
    with pytest.raises(ConfigError, match=r"has no needs.refiner, .*; add needs.refiner="):
        scored(["pipeline=refine", "pipeline.base.run=${needed:refiner}"], tmp_path)


@pytest.mark.slow
def test_a_cell_is_enlarged_by_a_need_of_its_training(tmp_path: Path) -> None:
    """Images are scored with those of 64 pixels, and the price is that of the training, of 32 pixels."""
    large = "data.resolution=64,data.root=sheets"
    small = SMALL.replace(" ", ",")
    node = {
        **NODE,
        "train": [
            "experiment=emoji_text", *SMALL.replace("callbacks.samples.num_samples=2", "~callbacks.samples").split(),
            f"needs.autoencoder=[{CODER}]", f"needs.judge=[{CLIP},{large}]",
            f"needs.upsampler=[experiment=emoji_upsampler,{small},network.channels=8,{large}]",
        ],
        "cells": {
            "alone": {},
            "enlarged": {"evaluate": ["pipeline=cascade", "pipeline.upsamplers.x2.run=${needed:upsampler}"]},
        },
    }  # fmt: skip
    cells = configs(Ablation.read("t", node).cells, Settings(seeds=[0], outputs=str(tmp_path)))
    planned = [(cost(cfg), cfg.data.resolution, Path(cfg.evaluation.clip.run).name) for _, cfg, _ in cells]
    (alone, small_side, judge), (enlarged, large_side, same) = planned
    assert (small_side, large_side) == (32, 64)
    assert judge == same
    assert alone.train == enlarged.train
    assert (alone.nfe, enlarged.nfe) == (2 * 2, 2 * 2 + 2), "steps, passes"


@pytest.mark.slow
def test_cells_of_a_pipeline_are_planned_trained_once_and_scored(tmp_path: Path) -> None:
    cells = Ablation.read("t", NODE).cells
    settings = Settings(seeds=[0], outputs=str(tmp_path / "out"))
    calls, names = {}, set()
    for cell, cfg, name in configs(cells, settings):
        calls[cell.name] = cost(cfg).nfe
        names.add(name)
    assert len(names) == 1, "one training"
    assert calls == {"prior": 2 * 2 * 2 + 2 * 2, "none": 4}, "candidates, steps, passes"
    assert not (tmp_path / "out").exists()

    assert run(cells, settings) == 0
    found = {one.cell.name: one for one in measured(cells, settings)}
    scores = {name: one.mean("clip_score_efficientnet-lite0_4") for name, one in found.items()}
    assert None not in scores.values()
    assert {name: one.nfe for name, one in found.items()} == calls
    records = [
        json.loads(path.read_text()) for path in (tmp_path / "out" / "pipelines").glob("*/evaluation/*/metrics.json")
    ]
    kinds = {record["fingerprint"]["samples"]["pipeline"]["embedding"] for record in records}
    assert kinds == {"prior", "none"}
    assert len(list((tmp_path / "out").glob("*/*/checkpoints/last.ckpt"))) == 5, "decoder, prior, coder, CLIP, judge"
