"""Averages of weights: their profiles against direct sums, and post-hoc reconstruction against the average itself."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import CONF, config
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffusion.experiment.config.validate import check
from diffusion.training.callbacks.posthoc import FOLDER, PostHocEMA, coefficients, reconstruct
from diffusion.training.ema import EMA, ConstantEMA, HalfLifeEMA, PowerEMA, average, exponent


def profile(rule: EMA, steps: int) -> np.ndarray:
    """How much the weights after each step count in the average at the end; entry 0 is the initial weights."""
    weights = np.zeros(steps + 1)
    weights[0] = 1
    for step in range(1, steps + 1):
        beta = rule.beta(step)
        weights[:step] *= beta
        weights[step] += 1 - beta
    return weights


def test_the_constant_average_is_the_geometric_sum() -> None:
    weights = profile(ConstantEMA(0.9, warmup=False), 30)
    np.testing.assert_allclose(weights[1:], 0.1 * 0.9 ** np.arange(29, -1, -1), rtol=1e-12)


def test_the_warm_up_forgets_the_start_and_reaches_its_decay() -> None:
    warm = ConstantEMA(0.99, warmup=True)
    assert profile(warm, 100)[0] < 1e-6 < profile(ConstantEMA(0.99, warmup=False), 100)[0]
    assert warm.beta(10_000) == 0.99


def test_half_of_the_average_is_younger_than_the_half_life() -> None:
    rule = HalfLifeEMA(images=3200, batch_size=32, ramp=None)
    weights = profile(rule, 2000)
    assert weights[-100:].sum() == pytest.approx(0.5, abs=1e-6)  # the last 100 steps are 3200 images
    np.testing.assert_allclose(HalfLifeEMA(3200, 64, None).beta(1), rule.beta(1) ** 2)


def test_the_half_life_ramps_up() -> None:
    rule = HalfLifeEMA(images=1e9, batch_size=10, ramp=0.05)
    weights = profile(rule, 1000)
    assert weights[0] < 1e-9
    assert weights[-50:].sum() == pytest.approx(0.5, abs=0.02)  # a half-life of 5% of training
    assert HalfLifeEMA(images=1000, batch_size=10, ramp=0.05).beta(10_000) == pytest.approx(0.5 ** (10 / 1000))


@settings(max_examples=20, deadline=None)
@given(std=st.floats(0.01, 0.25))
def test_the_power_average_is_as_long_as_it_says(std: float) -> None:
    """Standard deviation and mean of the profile k^gamma over a training of unit length."""
    steps = 4000
    rule, place = PowerEMA(std), np.arange(1, steps + 1) / steps
    weights = profile(rule, steps)
    assert weights[0] == 0
    mean = (weights[1:] * place).sum()
    assert math.sqrt((weights[1:] * (place - mean) ** 2).sum()) == pytest.approx(std, rel=0.01)
    assert mean == pytest.approx((rule.gamma + 1) / (rule.gamma + 2), abs=1e-3)


def test_the_papers_lengths_have_its_exponents() -> None:
    """Karras et al. 2024, section 3.1: gamma = 6.94 gives 0.10 and 16.97 gives 0.05."""
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)


def test_a_stored_average_is_itself() -> None:
    stored = [(std, step) for step in (100, 200, 300) for std in (0.05, 0.1)]
    for number, (std, step) in enumerate(stored):
        np.testing.assert_allclose(coefficients(stored, std, step), np.eye(6)[number], atol=1e-5)


class Toy(pl.LightningModule):
    """A module of two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"denoiser": nn.Linear(1, 1), "conditioner": nn.Linear(1, 1, bias=False)})


def trained(folder: Path, steps: int, every: int, resume_at: int | None = None) -> tuple[list[dict], PostHocEMA]:
    """A course of weights that an average must follow, and the snapshots of it."""
    folder.mkdir(exist_ok=True)
    module, callback = Toy(), PostHocEMA([0.05, 0.1], every)
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, default_root_dir=str(folder))
    callback.on_train_start(trainer, module)
    course = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            for number, parameter in enumerate(module.parameters()):
                parameter.fill_(math.sin(step / 15 + number) + step / steps)
        course.append({f"average.{n.removeprefix('model.')}": p.detach().clone() for n, p in module.named_parameters()})
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, step)
        callback.on_train_batch_end(trainer, module, None, None, step)  # accumulated: no step in between
        if step == resume_at:
            resumed = PostHocEMA([0.05, 0.1], every)
            resumed.load_state_dict(callback.state_dict())
            resumed.on_train_start(trainer, module)
            callback = resumed
    callback.on_train_end(trainer, module)
    return course, callback


def direct(course: list[dict], std: float) -> dict:
    """The power-function average of a course of weights, taken step by step."""
    kept = {name: torch.zeros_like(value) for name, value in course[0].items()}
    for step, now in enumerate(course, 1):
        average(kept.values(), now.values(), PowerEMA(std).beta(step))
    return kept


@pytest.mark.parametrize("std", [0.05, 0.07, 0.1, 0.15])
def test_any_length_is_reconstructed(tmp_path: Path, std: float) -> None:
    course, _ = trained(tmp_path, 400, 20)
    wanted, said = direct(course, std), reconstruct(tmp_path, std)
    assert said.keys() == {"average.denoiser.weight", "average.denoiser.bias", "average.conditioner.weight"}
    for name, value in wanted.items():
        torch.testing.assert_close(said[name], value, rtol=0, atol=0.01)


def test_an_earlier_average_is_reconstructed(tmp_path: Path) -> None:
    course, _ = trained(tmp_path, 400, 20)
    wanted, said = direct(course[:240], 0.08), reconstruct(tmp_path, 0.08, step=240)
    torch.testing.assert_close(said["average.denoiser.bias"], wanted["average.denoiser.bias"], rtol=0, atol=0.01)


def test_a_resumed_training_stores_the_same(tmp_path: Path) -> None:
    trained(tmp_path / "one", 60, 20)
    trained(tmp_path / "two", 60, 20, resume_at=33)
    for file in sorted((tmp_path / "one" / FOLDER).glob("*.pt")):
        one, two = (torch.load(tmp_path / name / FOLDER / file.name, weights_only=True) for name in ("one", "two"))
        assert one["step"] == two["step"]
        for a, b in zip(one["averages"], two["averages"], strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_last_step_is_stored(tmp_path: Path) -> None:
    trained(tmp_path, 50, 20)
    assert [file.stem for file in sorted((tmp_path / FOLDER).iterdir())] == [
        "step_0000020",
        "step_0000040",
        "step_0000050",
    ]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: ConstantEMA(1.0), r"ema\.decay"),
        (lambda: HalfLifeEMA(images=0), "images=0"),
        (lambda: HalfLifeEMA(ramp=0.0), r"ramp=0\.0"),
        (lambda: PowerEMA(0.3), r"ema\.std"),
        (lambda: PostHocEMA([0.05]), r"callbacks\.posthoc"),
        (lambda: PostHocEMA([0.05, 0.1], 0), r"callbacks\.posthoc"),
    ],
)
def test_bad_numbers_name_their_key(make, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make()


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("[!_]*.yaml")))
def test_any_average_can_be_chosen_in_any_experiment(tmp_path: Path, experiment: str) -> None:
    unweighted = (
        ["module.loss.perceptual.extractor=null"] if experiment.startswith(("ldm_kl", "ldm_vq")) else []
    )  # LPIPS's are not here
    for average_of in ("power", "half_life"):
        cfg = config(tmp_path, f"experiment={experiment}", f"ema={average_of}", *unweighted)
        check(cfg)
        assert cfg.ema._target_.lower().endswith(f".{average_of.replace('_', '')}ema")


def test_a_run_without_snapshots_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"callbacks=\[default,posthoc\]"):
        reconstruct(tmp_path, 0.1)
