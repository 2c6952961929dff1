"""The project as a library: docs/library.md is run as it stands, and what it says holds."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.denoiser import GaussianDenoiser
from diffusion.errors import ConfigError
from diffusion.sampler.ddim import DDIMSampler
from diffusion.sampler.flow_map import FlowMapSampler
from diffusion.sampler.heun import HeunSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.training.module.diffusion import DiffusionModule

PAGE = Path(__file__).parents[1] / "docs" / "library.md"


def test_the_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
            exec(block, names)
    model, images = names["model"], names["images"]
    assert images.shape == (16, 1, 8, 8)
    assert torch.equal(names["again"][0], images[3])
    assert len(re.findall(r"^\d: sigma/alpha", capsys.readouterr().out, re.M)) == 5
    assert 0 < names["result"].metrics["fd_digits-cnn-v1_128"] < 1000
    strip = np.asarray(Image.open("strip.png").convert("L"))
    assert strip.shape == (4 * 2 * 9 + 1, 6 * 9 + 1)
    last = strip[1:9, 5 * 9 + 1 : 5 * 9 + 9]  # the first sample at the end of its way
    assert np.array_equal(last, model.sample(4, seed=0, batch_size=4)[0, 0].numpy())
    with pytest.raises(ValueError, match="columns=1"):
        model.strip(1, columns=1)


@pytest.mark.parametrize("sampler", [DDIMSampler(6), HeunSampler(6)])
def test_on_step_gets_the_prediction_that_the_step_was_made_of(sampler) -> None:
    denoiser, seen = GaussianDenoiser(CosineSchedule(), 0.5, 0.3), []
    x = sampler(
        denoiser, torch.randn(3, 2, dtype=torch.float64), on_step=lambda i, level, x, x0: seen.append((i, level, x, x0))
    )
    assert [i for i, *_ in seen] == list(range(6))
    assert torch.equal(seen[-1][2], x)
    levels = sampler.levels(denoiser.schedule)
    assert [level for _, level, _, _ in seen] == levels[1:]
    if isinstance(sampler, DDIMSampler):
        for (_, _, before, _), (_, _, _, x0), cur in zip(seen, seen[1:], levels[1:], strict=False):
            assert torch.equal(denoiser(before, cur.t).x0, x0)


def test_a_flow_map_that_predicts_nothing_has_no_x0() -> None:
    class Map(GaussianDenoiser):
        def jump(self, x, t, s, cond):
            return self.transport(x, t, s)

    seen = []
    FlowMapSampler(3)(Map(CosineSchedule()), torch.randn(2, 1), on_step=lambda i, level, x, x0: seen.append(x0))
    assert seen == [None, None, None]


def test_lightnings_way_to_load_names_ours() -> None:
    with pytest.raises(ConfigError, match=r"diffusion\.load\(<run folder>\)"):
        DiffusionModule.load_from_checkpoint("last.ckpt")
