"""The job of text to image, small: an autoencoder by its need, a model of texts in its latents, a grid, a score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from scripts_in_process import run_script

from diffusion.training.callbacks.prompt_grid import GAP, WIDTH

NEED = (
    "[experiment=emoji_autoencoder,trainer.max_steps=2,data.batch_size=4,autoencoder.widths=[8,8,8],evaluation=none,"
    "logger=csv]"
)
SMALL = (
    f"scripts/train.py experiment=emoji_text logger=csv needs.autoencoder={NEED} network.channels=8 text_encoder.dim=8 "
    "text_encoder.pooled_dim=8 text_encoder.depth=1 data.batch_size=4 data.styles=[twemoji] sampler.steps=2 "
    "lr_scheduler=constant callbacks.samples.num_samples=16 callbacks.checkpoint.every_n_train_steps=2"
)
SCORED = "evaluation.num_samples=4 evaluation.batch_size=4 evaluation.metrics=[kid]"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_the_job_trains_draws_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_script(f"{SMALL} {SCORED} trainer.max_steps=4")
    (run,) = (tmp_path / "outputs" / "emoji_text").iterdir()
    (need,) = (tmp_path / "outputs" / "emoji_autoencoder").iterdir()
    assert (need / "latents.json").is_file()
    assert len(list((tmp_path / "data" / "cache").glob("latents-*.npy"))) == 2, "of both splits, kept"
    grid = Image.open(run / "samples" / "step_0000004.png")
    assert (grid.width - GAP) % (36 + WIDTH + GAP) == 0, "an image a prompt, beside its words"
    (record,) = (run / "evaluation").glob("*/metrics.json")
    named = json.loads(record.read_text())["metrics"].keys()
    assert named == {"kid_efficientnet-lite0_4", "kid_std_efficientnet-lite0_4"}

    run_script(f"{SMALL} evaluation=none name=stopped trainer.max_steps=2")  # the same need, found
    assert len(list((tmp_path / "outputs" / "emoji_autoencoder").iterdir())) == 1
    (stopped,) = (tmp_path / "outputs" / "stopped").iterdir()
    run_script(f"scripts/train.py resume={stopped} trainer.max_steps=4")
    one, other = weights(run), weights(stopped)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []

    run_script(f"scripts/sample.py run={run} text='[a red heart,blue pizza]' num_samples=2")
    (lines,) = (run / "samples").glob("*/metadata.jsonl")
    assert [json.loads(line)["text"] for line in lines.read_text().splitlines()] == ["a red heart", "blue pizza"]
