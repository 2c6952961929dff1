"""What every training shares: a second player, a teacher, frozen parameters, a start from another run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from conftest import config
from model_folders import run_folder
from omegaconf import DictConfig
from rank_jobs import Ranked, on_ranks
from torch import Tensor, nn

import diffusion
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build_data, build_module, build_trainer
from diffusion.experiment.build.initialise import initialise
from diffusion.experiment.build.load import identities
from diffusion.objective import Adversary, Loss, RegressionObjective

Config = Callable[..., DictConfig]
QUIET = ["logger=csv", "evaluation=none", "~callbacks.samples", "~callbacks.progress"]


class ToyAdversary(Adversary, RegressionObjective):
    """The squared error, and a linear discriminator of x_0 and its prediction that the model is to deceive."""

    def __init__(self, weighting: Any, time_distribution: Any, ratio: int = 1, **options: Any) -> None:
        super().__init__(weighting, time_distribution, **options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.rival = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.ratio = ratio
        self.rival_optimizer = lambda parameters: torch.optim.Adam(parameters, lr=1e-2)

    def __call__(self, denoiser, x0, cond, *, randomness=None, step=None) -> Loss:
        plain = super().__call__(denoiser, x0, cond, randomness=randomness, step=step)
        return Loss(plain.total - 0.1 * self.rival(self._drawn(denoiser, x0, cond, randomness)).squeeze(1), {}, plain.t)

    def rival_loss(self, denoiser, x0, cond, *, randomness=None, step=None) -> Loss:
        with torch.no_grad():
            drawn = self._drawn(denoiser, x0, cond, randomness)
        loss = nn.functional.softplus(self.rival(drawn)) + nn.functional.softplus(-self.rival(x0))
        return Loss(loss.squeeze(1), {}, torch.ones(len(x0)))

    def _drawn(self, denoiser, x0, cond, randomness) -> Tensor:
        return denoiser(self.noised(denoiser, x0, randomness).x, 0.5, cond).x0


def adversarial(cfg: DictConfig, **options: int) -> Any:
    """The module of a config, its objective turned into the toy adversary."""
    cfg.objective._target_ = "test_module.ToyAdversary"
    cfg.objective = {**cfg.objective, **options}
    cfg.module.objective = cfg.objective
    return build_module(cfg)


def fit(cfg: DictConfig, checkpoint: Path | None = None, **options: int) -> dict[str, Any]:
    trainer = build_trainer(cfg)
    trainer.fit(adversarial(cfg, **options), datamodule=build_data(cfg), ckpt_path=checkpoint, weights_only=True)
    return torch.load(Path(cfg.paths.run) / "checkpoints" / "last.ckpt", weights_only=True)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_second_player_resumes_to_the_same_bits(tmp_path: Path, ratio: int) -> None:
    keys = [*QUIET, "network=mlp", "network.width=16", "network.depth=1"]
    whole = fit(config(tmp_path / "whole", *keys, "trainer.max_steps=6"), ratio=ratio)
    part = config(tmp_path / "part", *keys, "trainer.max_steps=3")
    first = fit(part, ratio=ratio)
    assert not torch.equal(first["state_dict"]["rival_network.1.weight"], whole["state_dict"]["rival_network.1.weight"])
    more = config(tmp_path / "part", *keys, "trainer.max_steps=6")
    resumed = fit(more, tmp_path / "part" / "checkpoints" / "last.ckpt", ratio=ratio)
    assert same(whole["state_dict"], resumed["state_dict"])
    assert same(whole["rival"], resumed["rival"])
    assert whole["rival"]["state"][0]["step"] == 6 * ratio


def ranks_job(rank: int, size: int, folder: str, store: str, conn: Any) -> None:
    """A few adversarial steps by hand of one rank, on its share of the batches."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(0, 60))
    keys = ["logger=csv", "evaluation=none", "network=mlp", "network.width=16", "network.depth=1", "data.batch_size=12"]
    cfg = config(Path(folder), *keys, "objective.time_distribution.coupling=independent")
    module = adversarial(cfg)
    module.trainer = Ranked(size, rank)
    optimizer = module.configure_optimizers()["optimizer"]
    split = build_data(cfg).split("train")
    for step in range(3):
        module.trainer.global_step = step
        rows = torch.arange(12 * step, 12 * step + 12)[12 * rank // size : 12 * (rank + 1) // size]
        optimizer.zero_grad()
        module.rival.network.eval()  # dropout differs between ranks
        module.training_step(split.batch(rows), 0)["loss"].backward()
        for parameter in module.model.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= size
        optimizer.step()
    if rank == 0:
        conn.send({name: value.numpy() for name, value in module.state_dict().items()})
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_second_player_learns_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    results = on_ranks(ranks_job, tmp_path)
    start = adversarial(config(tmp_path / "start", "logger=csv", "evaluation=none", "network=mlp", "network.width=16",
                               "network.depth=1")).state_dict()  # fmt: skip
    assert abs(results[0]["rival_network.1.weight"] - start["rival_network.1.weight"].numpy()).max() > 1e-3
    for other in results[1:]:
        for name, value in results[0].items():
            torch.testing.assert_close(torch.from_numpy(other[name]), torch.from_numpy(value), rtol=2e-4, atol=2e-5)


def test_several_updates_need_whole_batches(train_config: Config) -> None:
    with pytest.raises(ValueError, match=r"trainer\.accumulate_grad_batches=1"):
        fit(train_config("trainer.max_steps=1", "trainer.accumulate_grad_batches=2", "micro_batch=null"), ratio=2)
    with pytest.raises(ConfigError, match=r"objective\.ratio"):
        adversarial(train_config(), ratio=0)


def test_frozen_parameters_stay_and_the_rest_learns(train_config: Config) -> None:
    cfg = train_config("trainer.max_steps=3", "freeze=[denoiser.network.stem.*]")
    module = build_module(cfg)
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    build_trainer(cfg).fit(module, datamodule=build_data(cfg))
    after = module.model.state_dict()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if ".stem." in name} <= still
    assert len(still) < len(before)
    for bad, sentence in (("denoiser.netwrk.*", "no trained parameter"), ("*", "leaves nothing to train")):
        with pytest.raises(ConfigError, match=sentence):
            build_module(train_config(f"freeze=['{bad}']"))


def test_a_run_starts_from_another_as_far_as_it_fits(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "first", "seed=1", "conditioner=label")
    module = build_module(config(tmp_path / "same", "evaluation=none", "network.channels=8", "conditioner=label"))
    said = initialise(module.model, str(folder))
    first = diffusion.load(folder)
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in module.model.state_dict().items())
    assert "new: none; not used: none" in said
    bare = build_module(config(tmp_path / "bare", "evaluation=none", "network.channels=8"))
    assert "not used: conditioner.embedding.weight" in initialise(bare.model, str(folder))
    other = build_module(config(tmp_path / "other", "evaluation=none", "network=mlp"))
    with pytest.raises(ConfigError, match=r"initial\.run=.*none of its"):
        initialise(other.model, str(folder))


def test_a_student_that_starts_from_its_teacher_has_nothing_to_learn(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "teacher", "seed=1", "conditioner=label")
    keys = ["evaluation=none", "network.channels=8", "conditioner=label", "conditioner.drop=0", "logger=csv"]
    cfg = config(
        tmp_path / "student", *keys, "objective=matching", f"objective.teacher.run={folder}", "trainer.max_steps=1"
    )
    module = build_module(cfg)
    batch = build_data(cfg).split("train").batch(torch.arange(8))
    randomness = pl_randomness(module, batch)
    assert module.loss(batch, randomness).total.min() > 0
    initialise(module.model, str(folder))
    assert not module.loss(batch, pl_randomness(module, batch)).total.any()
    assert not [name for name in module.state_dict() if name.startswith("teacher")]
    assert identities(cfg)["objective.teacher"].run == str(folder)


def pl_randomness(module: Any, batch: dict[str, Any]) -> Any:
    module.trainer = Ranked(1, 0)
    return module.randomness(batch, 0, 0)
