"""The schedulers of diffusers, by their configs: tables, times and five steps against what diffusers computed."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import config
from hydra.utils import instantiate
from published import FIXTURES, Expected

from diffusion.errors import ConfigError
from diffusion.guidance.base import guide
from diffusion.parameterization.base import Parameterization
from diffusion.pretrained.diffusers_scheduler import scheduler
from diffusion.schedule.base import Schedule

FOLDERS = sorted(path.parent.name for path in FIXTURES.glob("diffusers_schedulers/*/scheduler_config.json"))
SOLVED = [name for name in FOLDERS if not name.startswith("ddpm")]


def read(name):
    return json.loads((FIXTURES / "diffusers_schedulers" / name / "scheduler_config.json").read_text())


def built(folder, settings, *more):
    words = {True: "true", False: "false", None: "null"}
    lines = [f"{k}={words.get(v, v) if isinstance(v, bool) or v is None else v}" for k, v in settings.items()]
    return config(folder, "experiment=none", *lines, *more)


class Pseudo:
    """The outputs 0.6 tanh(scaled x) + 0.4 outputs[k] of the fixture in a network's place, at the k-th call."""

    def __init__(self, schedule: Schedule, target: Parameterization, outputs: torch.Tensor, scaled: bool) -> None:
        self.schedule, self.target, self.outputs, self.scaled, self.calls = schedule, target, outputs, scaled, 0

    def __call__(self, x, t, cond=None):
        level = self.schedule.level(t)
        output = 0.6 * torch.tanh(x) + 0.4 * self.outputs[self.calls]
        self.calls += 1
        return self.target.decode(output, x, level.alpha, level.sigma)


@pytest.mark.parametrize("name", SOLVED)
def test_five_steps_end_where_those_of_diffusers_end(name, tmp_path):
    expected = Expected("diffusers_schedulers")
    cfg = built(tmp_path, scheduler(read(name)), "sampler.steps=5")
    schedule, target = instantiate(cfg.schedule), instantiate(cfg.parameterization)
    wrappers = instantiate(cfg.guidance)
    denoiser = guide(Pseudo(schedule, target, expected["outputs"], True), wrappers)
    sampler = instantiate(cfg.sampler)
    out = sampler(denoiser, expected["noise"])
    expected.check(f"{name}__final", out, least=2e-5)


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "flow_shift3"])
def test_the_table_is_that_of_diffusers(name, tmp_path):
    expected = Expected("diffusers_schedulers")
    schedule = instantiate(built(tmp_path, scheduler(read(name))).schedule)
    alphas = schedule.alpha(torch.arange(1, schedule.steps + 1, dtype=torch.float64) / schedule.steps) ** 2
    np.testing.assert_allclose(alphas, expected[f"{name}__alphas_cumprod"], rtol=3e-5, atol=3e-7)


@pytest.mark.parametrize("name", ["ddpm_fixed_small", "ddpm_learned_range"])
def test_the_variance_of_a_step_is_that_of_diffusers(name, tmp_path):
    from diffusion.schedule.posterior import between

    expected = Expected("diffusers_schedulers")
    cfg = built(tmp_path, scheduler(read(name)), "sampler.steps=5")
    schedule = instantiate(cfg.schedule)
    levels = instantiate(cfg.sampler).levels(schedule)
    assert [round(level.t * 1000) - 1 for level in levels[:-1]] == expected[f"{name}__timesteps"].tolist()
    steps = [between(a, b) for a, b in pairwise(levels[:-1])]
    if name == "ddpm_fixed_small":
        found = [q.small for q in steps]
    else:
        found = [float(q.log_variance(torch.tensor([0.625], dtype=torch.float64))) for q in steps]
    np.testing.assert_allclose(found, expected[f"{name}__variance"][:-1], rtol=2e-4)


def test_a_field_that_is_not_honoured_is_refused():
    with pytest.raises(ConfigError, match=r"use_exponential_sigmas=True"):
        scheduler(read("euler_leading") | {"use_exponential_sigmas": True})
    with pytest.raises(ConfigError, match="settings that are not supported here: invented"):
        scheduler(read("heun") | {"invented": 1})
    with pytest.raises(ConfigError, match="the scheduler UniPCX is not supported"):
        scheduler({"_class_name": "UniPCX"})
