"""The lean loop against Lightning's own: the same hooks, the same bits, and Lightning's own where it does not suit."""

import pytest
import pytorch_lightning as pl
import torch
from conftest import config
from test_training import RICH, same

from diffusion.experiment.build.build import build_data, build_module, build_trainer
from diffusion.training import loop
from diffusion.training.host import EACH_STEP
from diffusion.training.loop import LeanEpochLoop

BOTH = pytest.mark.parametrize("own", [False, True], ids=["lean", "lightning"])


def hook(name):
    def call(self, trainer, module, *args):
        told = [a if isinstance(a, int) else sorted(a) if isinstance(a, dict) else type(a).__name__ for a in args]
        noted = trainer.lightning_module._current_fx_name
        self.calls.append((name, noted, told, trainer.global_step, trainer.fit_loop.batch_idx))

    return call


class Listener(pl.Callback):
    """Notes every hook of a step, with what it was told and when."""

    def __init__(self):
        self.calls = []


for _name in (*EACH_STEP, "on_validation_start", "on_train_epoch_end", "on_train_end"):
    setattr(Listener, _name, hook(_name))


def train(cfg, *callbacks, prepare=lambda module: None):
    trainer, module = build_trainer(cfg, extra=callbacks), build_module(cfg)
    prepare(module)
    trainer.fit(module, datamodule=build_data(cfg))
    return trainer


def lightnings_own(monkeypatch, own):
    if own:
        monkeypatch.setattr(LeanEpochLoop, "install", staticmethod(lambda trainer: None))


@pytest.fixture
def steps(monkeypatch):
    """Batches that the lean loop trained on."""
    taken, step = [], LeanEpochLoop._step
    monkeypatch.setattr(LeanEpochLoop, "_step", lambda self, *args: taken.append(args) or step(self, *args))
    return taken


@pytest.mark.parametrize("keys", [[], ["trainer.precision=bf16-mixed"], ["trainer.precision=64-true"]])
def test_hooks_and_bits_are_lightnings(tmp_path, monkeypatch, steps, keys):
    keys = [*keys, *RICH, "trainer.max_steps=18", "trainer.val_check_interval=7", "lr_scheduler.warmup=5"]
    keys += ["network=mlp", "network.width=8", "network.depth=1", "logger=csv", "evaluation=none", "~callbacks.samples"]
    heard, checkpoints, rows = [], [], []
    for own in (False, True):
        with monkeypatch.context() as patch:
            lightnings_own(patch, own)
            listener, folder = Listener(), tmp_path / str(own)
            train(config(folder, *keys), listener)
        heard.append(listener.calls)
        checkpoints.append(torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True))
        table = (folder / "metrics.csv").read_text().splitlines()
        times = [
            i for i, name in enumerate(table[0].split(",")) if name.split("/")[-1] in ("images_per_s", "tflops", "mfu")
        ]
        rows.append([[v for i, v in enumerate(row.split(",")) if i not in times] for row in table])
    assert len(steps) == 18
    assert heard[0] == heard[1]
    assert {name for name, *_ in heard[0]} > set(EACH_STEP)
    assert rows[0] == rows[1]
    for part in checkpoints[1]:
        assert same(checkpoints[0][part], checkpoints[1][part]), part


@BOTH
def test_what_a_callback_logs_arrives(train_config, monkeypatch, own):
    class Logging(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            module.log("mine", float(batch_idx), batch_size=1)

        def on_before_optimizer_step(self, trainer, module, optimizer):
            module.log("earlier", 2.0, on_step=True, batch_size=1)

    lightnings_own(monkeypatch, own)
    trainer = train(train_config("trainer.max_steps=3", "trainer.log_every_n_steps=1"), Logging())
    assert float(trainer.callback_metrics["mine"]) == 2.0
    assert float(trainer.logged_metrics["earlier"]) == 2.0


@pytest.mark.parametrize(
    "keys",
    [["trainer.accumulate_grad_batches=2"], ["trainer.profiler=simple"]],
    ids=["accumulation", "profiler"],
)
def test_what_it_was_not_written_for_is_lightnings(train_config, steps, keys):
    trainer = train(train_config("trainer.max_steps=2", *(f"+{key}" if "profiler" in key else key for key in keys)))
    assert trainer.global_step == 2
    assert not steps


def test_a_module_that_moves_batches_its_own_way_keeps_it(train_config, steps):
    moved = []

    def own_hook(module):
        class Own(type(module)):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                moved.append(dataloader_idx)
                return batch

        module.__class__ = Own

    train(train_config("trainer.max_steps=2"), prepare=own_hook)
    assert moved == [0, 0]
    assert not steps


def test_other_versions_of_lightning_run_their_own_loop(train_config, monkeypatch, steps):
    monkeypatch.setattr(loop, "TESTED", "0.0.")
    trainer = train(train_config("trainer.max_steps=2"))
    assert not isinstance(trainer.fit_loop.epoch_loop, LeanEpochLoop)
    assert trainer.global_step == 2
