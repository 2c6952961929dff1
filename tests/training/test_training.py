"""Training: exact resumption, two sets of weights that are never mixed, and failures that say what to do."""

import csv

import numpy as np
import pytest
import torch
from conftest import config
from omegaconf import OmegaConf

from diffusion.errors import DivergedError
from diffusion.experiment.build.build import build_data, build_module, build_trainer
from diffusion.experiment.task.train import run
from diffusion.training.callbacks.monitor import LossByLevel
from diffusion.training.checkpoint import LAST
from diffusion.training.clip import clip_by_norm
from diffusion.training.ema import ConstantEMA, average
from diffusion.training.flops import peak
from diffusion.training.loggers.csv import MetricsCSV
from diffusion.training.lr import ConstantSchedule, CosineSchedule, LinearSchedule
from diffusion.training.module.diffusion import DiffusionModule

RICH = ["conditioner=label", "network.dropout=0.2", "conditioner.drop=0.2"]
"""Everything that draws at random in training."""


class CutShortError(Exception):
    """Stands for a kill."""


def fit(cfg, *, cut_after=None):
    """Trains as a run does; ``cut_after`` optimizer steps it dies. The checkpoint's content."""
    module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg)
    if cut_after is not None:
        step = module.optimizer_step

        def dying(*args, **kwargs):
            if trainer.global_step == cut_after:
                raise CutShortError
            step(*args, **kwargs)

        module.optimizer_step = dying
    folder = trainer.default_root_dir
    checkpoint = f"{folder}/{LAST}" if cfg.resume else None
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return torch.load(f"{folder}/{LAST}", weights_only=True)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("save_at", [9, 14])  # an epoch is 14 batches: in its middle, at its end
def test_a_killed_run_ends_bit_for_bit_like_an_undisturbed_one(train_config, tmp_path, workers, save_at):
    keys = [*RICH, "trainer.max_steps=18", f"data.num_workers={workers}", "trainer.val_check_interval=7"]
    whole = fit(train_config(*keys, folder=tmp_path / "whole"))
    keys.append(f"callbacks.checkpoint.every_n_train_steps={save_at}")
    with pytest.raises(CutShortError):
        fit(train_config(*keys, folder=tmp_path / "cut"), cut_after=save_at + 2)
    resumed = fit(train_config(*keys, f"resume={tmp_path / 'cut'}", folder=tmp_path / "cut"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "batches"):
        assert same(whole[part], resumed[part]), part


@pytest.mark.slow
@pytest.mark.parametrize("times", ["uniform", "stratified", "antithetic"])
def test_accumulated_parts_of_a_batch_train_as_the_whole(train_config, tmp_path, times):
    keys = ["conditioner=label", "trainer.max_steps=4", "optimizer=adam", "optimizer.lr=1e-4"]
    keys += [f"objective/time_distribution={times}"]
    whole = fit(train_config(*keys, "data.batch_size=64", folder=tmp_path / "a"))["state_dict"]
    parts = ["data.batch_size=16", "trainer.accumulate_grad_batches=4"]
    split = fit(train_config(*keys, *parts, folder=tmp_path / "b"))["state_dict"]
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped_by_their_common_norm_in_every_precision(train_config, precision):
    """With plain gradient descent at rate 1, one step moves all weights together by exactly the clipped norm."""
    cfg = train_config("trainer.max_steps=1", "trainer.gradient_clip_val=0.01", f"trainer.precision={precision}")
    module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg)
    module._optimizer = lambda parameters: torch.optim.SGD(parameters, lr=1.0, fused=True)
    module._lr_scheduler = None
    before = torch.cat([p.detach().flatten().clone() for p in module.model.denoiser.parameters()])
    trainer.fit(module, datamodule=data)
    after = torch.cat([p.detach().flatten() for p in module.model.denoiser.parameters()])
    assert (after - before).norm() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("size", [0.01, 100.0])  # gradients below the norm, which stay, and above it
def test_clipping_inside_a_fused_optimizer_is_clipping_before_it(make, size):
    draws = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (7,), (2, 2, 2)]
    mine = [torch.nn.Parameter(torch.randn(shape, generator=draws)) for shape in shapes]
    plain = [torch.nn.Parameter(p.detach().clone()) for p in mine]
    fused, stepped = make(mine, lr=0.1, fused=True), make(plain, lr=0.1, foreach=False, fused=False)
    for _ in range(3):
        for p, q in zip(mine, plain, strict=True):
            p.grad = size * torch.randn(p.shape, generator=draws)
            q.grad = p.grad.clone()
        clip_by_norm(fused, mine, 1.0)
        torch.nn.utils.clip_grad_norm_(plain, 1.0)
        fused.step()
        stepped.step()
        torch.testing.assert_close(mine, plain)


def test_raw_and_averaged_weights_are_both_kept_and_differ(train_config):
    state = fit(train_config("trainer.max_steps=3"))["state_dict"]
    raw = {k.removeprefix("model.denoiser."): v for k, v in state.items() if k.startswith("model.denoiser.")}
    averaged = {k.removeprefix("average.denoiser."): v for k, v in state.items() if k.startswith("average.denoiser.")}
    assert raw.keys() == averaged.keys()
    assert any(not torch.equal(raw[k], averaged[k]) for k in raw)


def test_the_average_of_a_straight_path_is_known_in_closed_form():
    """Weights 1, 2, ..., n: the average from 0 with constant beta is n - beta (1 - beta^n) / (1 - beta)."""
    rule, n = ConstantEMA(0.9, warmup=False), 50
    averaged = [torch.zeros(3, dtype=torch.float64)]
    for k in range(1, n + 1):
        average(averaged, [torch.full((3,), float(k), dtype=torch.float64)], rule.beta(k))
    expected = n - 0.9 * (1 - 0.9**n) / (1 - 0.9)
    torch.testing.assert_close(averaged[0], torch.full((3,), expected, dtype=torch.float64))


def test_warm_up_forgets_the_start_and_reaches_the_decay():
    rule = ConstantEMA(0.9999, warmup=True)
    betas = [rule.beta(step) for step in (1, 10, 1000, 100_000, 10_000_000)]
    assert betas == sorted(betas)
    assert betas[0] < 0.2
    assert betas[-1] == 0.9999


def test_a_loss_that_is_no_number_stops_training_with_a_sentence(train_config):
    cfg = train_config("trainer.max_steps=20", "trainer.log_every_n_steps=5")
    module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg)
    with torch.no_grad():
        module.model.denoiser.network.head.bias.fill_(torch.nan)
    with pytest.raises(DivergedError, match=r"at step 5: training has diverged.*optimizer\.lr"):
        trainer.fit(module, datamodule=data)
    assert trainer.global_step == 5


@pytest.mark.slow
def test_metrics_csv_has_the_loss_per_noise_level_and_survives_a_resumption(train_config, tmp_path):
    keys = ["trainer.log_every_n_steps=2", "trainer.val_check_interval=4", "callbacks.checkpoint.every_n_train_steps=5"]
    run(train_config(*keys, "trainer.max_steps=6"))
    run(train_config(*keys, "trainer.max_steps=10", f"resume={tmp_path}"))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps)) == [2, 4, 6, 8, 10]
    assert all(float(row["train/loss"]) > 0 for row in rows)
    assert any(name.startswith("train/loss_t/") for name in rows[0])
    assert float(rows[1]["val/loss"]) > 0


@pytest.mark.slow
def test_two_weightings_compare_by_the_unweighted_loss(train_config, tmp_path):
    """One network under two weightings: other losses, the same unweighted one, which a constant weighting minimises."""
    rows = {}
    for name in ("constant", "snr_plus_one"):
        folder = tmp_path / name
        keys = ["trainer.max_steps=1", "trainer.log_every_n_steps=1", "trainer.val_check_interval=1"]
        run(train_config(*keys, "optimizer.lr=0.0", f"objective/weighting={name}", folder=folder))
        (rows[name],) = csv.DictReader((folder / "metrics.csv").open())
    one, other = rows["constant"], rows["snr_plus_one"]
    levels = [column for column in one if "unweighted_loss_t/" in column]
    assert {column.partition("/")[0] for column in levels} == {"train", "val"}
    for column in ("train/unweighted_loss", "val/unweighted_loss", *levels):
        assert float(one[column]) == pytest.approx(float(other[column]), rel=1e-6)
        assert float(one[column]) == pytest.approx(float(one[column.replace("unweighted_", "")]), rel=1e-6)
    assert float(other["val/loss"]) > 1.1 * float(one["val/loss"])


def test_speed_is_logged_as_arithmetic_a_second_and_as_a_share_of_the_machines(tmp_path):
    keys = ["network=mlp", "logger=csv", "evaluation=none", "~callbacks.samples", "trainer.max_steps=4"]
    cfg = config(tmp_path, *keys, "trainer.log_every_n_steps=2")
    weights = sum(p.numel() for p in build_module(cfg).model.denoiser.parameters() if p.ndim == 2)
    run(cfg)
    for row in csv.DictReader((tmp_path / "metrics.csv").open()):
        a_step = 3 * 2 * weights  # forward and twice as much backward; a multiplication and an addition for each weight
        assert float(row["train/tflops"]) * 1e12 == pytest.approx(a_step * float(row["train/images_per_s"]), rel=1e-6)
        share = float(row["train/tflops"]) * 1e12 / peak(torch.device("cpu"), torch.float32)
        assert float(row["train/mfu"]) == pytest.approx(share, rel=1e-6)


def test_a_network_that_shapes_cannot_run_is_trained_all_the_same(train_config, tmp_path, monkeypatch):
    monkeypatch.setattr(DiffusionModule, "image_flops", lambda *_: torch.empty(1, device="meta").item())
    run(train_config("trainer.max_steps=2", "trainer.log_every_n_steps=2"))
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open())
    assert "train/images_per_s" in row
    assert "train/mfu" not in row


def test_loss_by_level_puts_each_loss_where_its_time_is():
    metric = LossByLevel(bins=4)
    metric.update(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64))
    metric.update(torch.tensor([7.0]), torch.tensor([0.3], dtype=torch.float64))
    out = {name: float(value) for name, value in metric.compute().items()}
    assert out == {"loss": 4.0, "loss_t/0-0.25": 1.0, "loss_t/0.25-0.5": 5.0, "loss_t/0.75-1": 5.0}


def test_sample_grids_come_from_the_same_noise_every_time(tmp_path):
    keys = ["logger=csv", "evaluation=none", "network.channels=8", "optimizer.lr=0.0", "ema=constant", "ema.decay=0.5"]
    keys += ["callbacks.samples.every_n_train_steps=1", "callbacks.samples.num_samples=4", "sampler.steps=2"]
    run(config(tmp_path, *keys, "trainer.max_steps=2"))
    first, second = sorted((tmp_path / "samples").glob("step_*.png"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("schedule", [ConstantSchedule, CosineSchedule, LinearSchedule])
def test_learning_rates_rise_in_the_warm_up_and_end_where_they_should(schedule):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    lr = (
        schedule(optimizer, warmup=4)
        if schedule is ConstantSchedule
        else schedule(optimizer, total=20, warmup=4, floor=0.1)
    )
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        lr.step()
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.0 if schedule is ConstantSchedule else 0.1)
    assert rates[12] == pytest.approx(1.0 if schedule is ConstantSchedule else 0.55)  # half of the way, and of the fall
    if schedule is LinearSchedule:
        assert np.diff(rates[4:]) == pytest.approx([-0.9 / 16] * 15)


def test_bad_settings_are_refused_by_name():
    with pytest.raises(ValueError, match=r"ema\.decay"):
        ConstantEMA(1.0)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    with pytest.raises(ValueError, match="ends nowhere"):
        CosineSchedule(optimizer, total=-1)


def test_the_resolved_config_is_plain(train_config):
    assert OmegaConf.to_container(train_config(), resolve=True)["network"]["in_channels"] == 1


def test_a_finished_run_that_is_scored_again_keeps_its_last_row(tmp_path):
    for value in (1.0, 2.0):
        logger = MetricsCSV(str(tmp_path))
        if value == 1.0:
            logger.log_metrics({"train/loss": 0.5}, step=2)
            logger.log_metrics({"train/loss": 0.25}, step=4)
        logger.log_metrics({"evaluation/fd": value}, step=4)
    assert [row["train/loss"] for row in csv.DictReader((tmp_path / "metrics.csv").open())] == ["0.5", "0.25"]
    assert [row["evaluation/fd"] for row in csv.DictReader((tmp_path / "metrics.csv").open())] == ["", "2.0"]
