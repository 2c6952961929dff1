"""The trend score: told to the loggers under its own name, and training goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger

from diffusion.evaluation.callback import TrendScore
from diffusion.experiment.build.build import build_data, build_module
from diffusion.sampler.ddim import DDIMSampler

Config = Callable[..., DictConfig]


def trained(cfg: DictConfig, folder: Path, *callbacks: pl.Callback) -> tuple[dict, str]:
    """Four steps -> the weights and the logged names."""
    cfg.network.dropout = 0.1
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=4,
        logger=CSVLogger(folder),
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        default_root_dir=folder,
        use_distributed_sampler=False,
    )
    torch.manual_seed(0)
    module = build_module(cfg)
    trainer.fit(module, datamodule=build_data(cfg))
    assert module.training
    logged = "".join(path.read_text() for path in folder.rglob("metrics.csv"))
    return {name: value.clone() for name, value in module.state_dict().items()}, logged


def test_training_does_not_notice_the_trend_score(train_config: Config, tmp_path: Path) -> None:
    cfg = train_config()
    plain, _ = trained(cfg, tmp_path / "plain")
    after_plain = torch.rand(3)
    scored, logged = trained(
        cfg, tmp_path / "scored", TrendScore(DDIMSampler(2), every_n_train_steps=2, num_samples=70)
    )
    assert torch.equal(torch.rand(3), after_plain)
    assert plain.keys() == scored.keys()
    assert all(torch.equal(plain[name], scored[name]) for name in plain)
    assert "trend/fd_digits-cnn-v1_70x2_trend" in logged
    assert len([line for line in logged.splitlines()[1:] if line]) == 2


def test_a_model_that_draws_nothing_finite_does_not_stop_its_training(
    train_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = TrendScore(DDIMSampler(2), every_n_train_steps=4, num_samples=70)
    monkeypatch.setattr(score.sampler, "step", lambda denoise, x, *rest: (x * torch.nan, None))
    trained(train_config(), tmp_path, score)
    assert "no trend score at step 4: 70 of 70 images" in caplog.text


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"callbacks\.trend\.every_n_train_steps"):
        TrendScore(DDIMSampler(2), every_n_train_steps=0)
