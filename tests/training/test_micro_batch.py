"""A batch in parts: the same training, in the memory there is."""

import json
from types import SimpleNamespace

import pytest
import torch

from diffusion.errors import DataError
from diffusion.experiment.build.build import build_data, build_module, build_trainer
from diffusion.experiment.task.train import run
from diffusion.training.callbacks import micro_batch
from diffusion.training.callbacks.micro_batch import FILE, Trial, divisors, largest
from diffusion.training.checkpoint import LAST

KEYS = ["conditioner=label", "optimizer.lr=1e-4", "trainer.val_check_interval=5", "trainer.log_every_n_steps=5"]


def trained(cfg):
    run(cfg)
    return torch.load(f"{cfg.paths.run}/{LAST}", weights_only=True)


def trial(cfg):
    module, data = build_module(cfg), build_data(cfg)
    trainer = build_trainer(cfg)
    trainer.datamodule = data
    return Trial(module, trainer)


@pytest.mark.slow
@pytest.mark.parametrize("times", ["uniform", "stratified"])
def test_parts_train_as_the_whole_and_count_like_it(train_config, tmp_path, times):
    """Through the end of an epoch, which is 14 batches, and two validations."""
    keys = [*KEYS, "trainer.max_steps=16", f"objective/time_distribution={times}"]
    whole = trained(train_config(*keys, folder=tmp_path / "whole"))
    parts = trained(train_config(*keys, "micro_batch=16", folder=tmp_path / "parts"))
    assert parts["global_step"] == whole["global_step"] == 16
    assert parts["batches"] == 4 * whole["batches"]
    torch.testing.assert_close(parts["state_dict"], whole["state_dict"], rtol=1e-3, atol=1e-5)
    assert parts["lr_schedulers"] == whole["lr_schedulers"]
    for folder in ("whole", "parts"):
        rows = (tmp_path / folder / "metrics.csv").read_text().splitlines()
        assert [int(row.split(",")[0]) for row in rows[1:]] == [5, 10, 15, 16]


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_parts_to_the_same_bits(train_config, tmp_path):
    keys = [*KEYS, "micro_batch=auto"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trial, "fits_memory", lambda self, size: size <= 20)
        whole = trained(train_config(*keys, "trainer.max_steps=17", folder=tmp_path / "whole"))
        trained(train_config(*keys, "trainer.max_steps=9", folder=tmp_path / "cut"))
    assert json.loads((tmp_path / "cut" / FILE).read_text())["micro_batch"] == 16
    resumed = trained(
        train_config(*keys, "trainer.max_steps=17", f"resume={tmp_path / 'cut'}", folder=tmp_path / "cut")
    )
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)
    with pytest.raises(DataError, match="started with 4 parts"):
        run(train_config(*KEYS, "micro_batch=32", f"resume={tmp_path / 'cut'}", folder=tmp_path / "cut"))


def test_the_most_that_fits_is_found_and_nothing_fitting_is_said():
    assert largest(96, lambda size: size <= 40) == 32
    assert largest(96, lambda size: True) == 96
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    with pytest.raises(DataError, match="checkpointing"):
        largest(8, lambda size: False)


def test_a_step_that_runs_out_of_memory_does_not_fit_and_leaves_no_trace(train_config, monkeypatch):
    """What happens on a GPU, with the device's refusal played."""
    tried = trial(train_config("objective/time_distribution=importance"))
    loss = tried.module.loss

    def small(batch, randomness):
        if len(batch["index"]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss(batch, randomness)

    monkeypatch.setattr(tried.module, "loss", small)
    before = [p.clone() for p in tried.module.parameters()]
    learned = tried.module.objective.state_dict()
    assert largest(64, tried.succeeds) == 8
    assert all(p.grad is None for p in tried.module.parameters())
    assert all(map(torch.equal, before, tried.module.parameters()))
    torch.testing.assert_close(tried.module.objective.state_dict(), learned)


def test_memory_grows_with_images_and_shrinks_with_checkpointing(train_config, monkeypatch):
    plain, saving = trial(train_config()), trial(train_config("network.checkpointing=true"))
    one, nine = plain.kept(1), plain.kept(9)
    assert nine > 7 * one
    assert saving.kept(8) < 0.6 * plain.kept(8)
    monkeypatch.setattr(micro_batch, "free_memory", lambda: 2 * 20 * one)
    assert largest(64, plain.fits_memory) == 16


def test_what_does_not_divide_the_share_is_refused(train_config):
    trainer = SimpleNamespace(datamodule=SimpleNamespace(batch_size=12), world_size=2, default_root_dir="nowhere")
    with pytest.raises(DataError, match=r"does not divide the 6 images.*one of 1, 2, 3, 6"):
        micro_batch.MicroBatch(4).on_fit_start(trainer, None)
