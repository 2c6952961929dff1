"""What would go wrong on a GPU or between ranks, as far as a processor can tell."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import config
from omegaconf import OmegaConf
from torch.distributed.utils import _recursive_to

from diffusion.denoiser import NetworkDenoiser
from diffusion.errors import ConfigError
from diffusion.experiment.build import build
from diffusion.experiment.build.build import build_data, build_module
from diffusion.experiment.config.validate import check
from diffusion.experiment.task.train import run
from diffusion.network.mlp import MLP
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.randomness import TRAINING, KeyedRandomness
from diffusion.sampler.likelihood import FlowLogLikelihood
from diffusion.schedule.cosine import CosineSchedule
from diffusion.training.checkpoint import LAST


def test_ddp_leaves_sample_numbers_on_the_host(train_config) -> None:
    """It moves every tensor among the arguments of a step to its GPU, where draws could not be keyed by them."""
    cfg = train_config()
    module, data = build_module(cfg), build_data(cfg)
    batch = next(iter(data.train_dataloader()))
    moved = module.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    ((there, _),) = _recursive_to((moved, 0), torch.device("meta"), False)
    assert there["image"].is_meta
    np.testing.assert_array_equal(there["index"], batch["index"].numpy())


@pytest.mark.parametrize("keys", [[], ["conditioner=label", "guidance=none"], ["experiment=digits_classifier"]])
def test_everything_that_is_trained_gets_a_gradient(tmp_path, keys: list[str]) -> None:
    """DDP waits for it, and fails at the second step without one."""
    cfg = config(tmp_path, "logger=csv", *keys)
    module, data = build_module(cfg), build_data(cfg)
    batch = next(iter(data.train_dataloader()))
    randomness = KeyedRandomness(batch["index"], seed=0, stream=TRAINING)
    module.loss(batch, randomness).total.mean().backward()
    trained = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    assert [name for name, grad in trained.items() if grad is None] == []


@pytest.mark.parametrize(
    "keys",
    [
        ["+trainer.gradient_clip_algorithm=value", "trainer.precision=bf16-mixed"],
        ["trainer.precision=64-true", "+callbacks.samples._target_=diffusion.training.callbacks.samples.SampleGrid",
         "+callbacks.samples.num_samples=2"],
    ],
    ids=["clipped by value in bf16", "a grid in float64"],
)  # fmt: skip
def test_a_training_that_some_precisions_broke(train_config, tmp_path, keys: list[str]) -> None:
    run(train_config(*keys, "trainer.max_steps=2", "sampler.steps=2"))
    assert (tmp_path / LAST).is_file()
    assert (tmp_path / "samples" / "step_0000002.png").is_file() == any("SampleGrid" in key for key in keys)


def test_values_are_clipped(train_config) -> None:
    cfg = train_config("optimizer.lr=1.0")
    module = build_module(cfg)
    module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace())
    for p in module._trained():
        p.grad = torch.full_like(p, 3.0)
    module.configure_gradient_clipping(torch.optim.Adam(module._trained(), fused=True), 0.5, "value")
    assert {float(p.grad.max()) for p in module._trained()} == {0.5}


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (["trainer.precision=bf16-true"], "set trainer.precision=bf16-mixed"),
        (["trainer=gpu", "trainer.precision=16-true"], "set trainer.precision=16-mixed"),
        (["matmul_precision=tf32"], "one of highest, high, medium, got 'tf32'"),
        (["compile=reduce-overhead", "micro_batch=16"], "use compile=true with micro_batch"),
        (["compile=max-autotune", "trainer.accumulate_grad_batches=2"], "with trainer.accumulate_grad_batches=2"),
    ],
)
def test_what_cannot_train_is_refused(tmp_path, keys: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(config(tmp_path, "logger=csv", *keys))


def test_graphs_without_parts_and_parts_without_graphs_are_not_refused(tmp_path) -> None:
    for keys in (["compile=reduce-overhead"], ["compile=true", "micro_batch=16"]):
        check(config(tmp_path, "logger=csv", *keys))


def test_images_are_scored_with_the_products_that_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusion.experiment.task import evaluate

    monkeypatch.setattr(evaluate, "_score_images", lambda *_: torch.get_float32_matmul_precision())
    before = torch.get_float32_matmul_precision()
    try:
        cfg = {"matmul_precision": "high", "evaluation": None, "images": "folder", "trainer": {"accelerator": "cpu"}}
        assert evaluate.run(OmegaConf.create(cfg)) == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_parts_bound_validation_and_grids(train_config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = train_config("callbacks.checkpoint.every_n_train_steps=2")
    data = build_data(cfg)
    whole = [len(batch["index"]) for batch in data.val_dataloader()]
    data.parts = 4
    parts = [len(batch["index"]) for batch in data.val_dataloader()]
    assert max(parts) == max(whole) // 4
    assert sum(parts) == sum(whole)


def test_products_are_as_the_config_says(train_config, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        build_module(train_config("matmul_precision=high"))
        assert torch.get_float32_matmul_precision() == "high"
        build_module(train_config())
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("has", [True, False])
def test_emulated_bf16_is_said(train_config, caplog, monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(build, "multiplies_bf16", lambda: has)
    build.build_trainer(train_config("trainer.precision=bf16-mixed"))
    assert ("this processor has no bf16 products" in caplog.text) is not has
    caplog.clear()
    build.build_trainer(train_config("trainer.precision=32-true"))
    assert caplog.text == ""


def test_several_probes_of_a_compiled_network() -> None:
    network = MLP(1, 2, width=8, depth=1)
    denoiser, x0 = NetworkDenoiser(network, CosineSchedule(), VelocityParameterization()), torch.randn(2, 1, 2, 2)
    flow = FlowLogLikelihood(probes=2, rtol=1e-1, atol=1e-1)

    def signs(x: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x)

    plain = flow(denoiser, x0, randn_like=signs)
    network.compile(backend="aot_eager")
    torch.testing.assert_close(flow(denoiser, x0, randn_like=signs), plain, rtol=1e-3, atol=1e-3)
