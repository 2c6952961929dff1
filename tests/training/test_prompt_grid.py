"""Grids of images with their words beside them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config
from PIL import Image

from diffusion.experiment.task import train
from diffusion.training.callbacks.prompt_grid import GAP, WIDTH, prompt_grid
from diffusion.training.callbacks.samples import SampleGrid, save_grid


def test_a_row_a_prompt_with_its_words(tmp_path: Path) -> None:
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 32, 32) * 40
    grid = np.asarray(prompt_grid(images, ["a red heart"] * 3 + ["blue"] * 3))
    assert grid.shape == (2 * (32 + GAP) + GAP, 3 * (32 + GAP) + WIDTH + 2 * GAP, 3)
    for row in range(2):
        for column in range(3):
            y, x = GAP + row * (32 + GAP), GAP + column * (32 + GAP)
            assert (grid[y : y + 32, x : x + 32] == (3 * row + column) * 40).all()
        words = grid[GAP + row * 36 : GAP + row * 36 + 32, GAP + 3 * 36 :]
        assert (words < 128).any()
    save_grid(images[:, :1], tmp_path / "grid.png", texts=list("abcdef"))
    assert Image.open(tmp_path / "grid.png").width > 32 + WIDTH


@pytest.mark.parametrize("text", ["", "word " * 20_000, "x" * 5000, "\u5fc3\u2764\ufe0f \n \t (:"])
def test_any_text_fits_beside_an_image(text: str) -> None:
    assert prompt_grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), [text]).height < 40


def test_prompts_share_the_samples() -> None:
    assert SampleGrid(num_samples=5, text=["a", "b"]).prompts == ["a", "a", "a", "b", "b"]
    assert SampleGrid(num_samples=2, text="a").prompts == ["a", "a"]
    assert SampleGrid().prompts is None
    for text in ([], ["a", "b", "c"]):
        with pytest.raises(ValueError, match="holds 1 to num_samples=2 prompts"):
            SampleGrid(num_samples=2, text=text)


def test_a_training_draws_the_same_prompts_each_time(tmp_path: Path) -> None:
    small = [
        "data=emoji",
        "data.styles=[twemoji]",
        "conditioner=text",
        "text_encoder.dim=8",
        "network=mlp",
        "conditioner.token_dim=0",
    ]
    small += ["text_encoder.pooled_dim=8", "network.width=4", "evaluation=none", "logger=csv", "trainer=cpu"]
    small += ["trainer.max_steps=2", "callbacks.samples.every_n_train_steps=1", "callbacks.samples.num_samples=4"]
    small += ["sampler=ddim", "sampler.steps=1", "optimizer.lr=0", "callbacks.samples.text=[a red heart,blue]"]
    cfg = config(tmp_path, *small, "experiment=none", "ema=constant")
    train.run(cfg)
    first, second = (Image.open(path) for path in sorted((tmp_path / "samples").glob("*.png")))
    assert first.width == 2 * 36 + WIDTH + 2 * GAP  # two images of 32 pixels a prompt
    assert first.tobytes() == second.tobytes()


def test_prompts_for_a_model_without_text_are_refused(tmp_path: Path) -> None:
    small = ["network=mlp", "network.width=4", "evaluation=none", "logger=csv", "trainer.max_steps=1"]
    cfg = config(tmp_path, *small, "callbacks.samples.text=a red heart", "sampler.steps=1")
    with pytest.raises(ValueError, match="gives prompts, and this model reads no texts"):
        train.run(cfg)
