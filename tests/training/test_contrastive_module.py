"""module=contrastive: its loss against torch's cross-entropy on the whole batch, on any number of ranks."""

from __future__ import annotations

import copy
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from conftest import config
from omegaconf import OmegaConf
from rank_jobs import Ranked, on_ranks
from torch import Tensor

from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build_data, build_module
from diffusion.experiment.config.validate import check
from diffusion.training.module.contrastive import ContrastiveModule
from diffusion.training.module.contrastive_loss import ContrastiveLoss

SMALL = (
    "module=contrastive", "data=emoji", "data.styles=[twemoji]", "data.batch_size=12", "ema=short", "optimizer.lr=2e-3",
    "module.model.image.widths=[8,16]", "module.model.image.blocks=1", "module.model.dim=6", "text_encoder.dim=8",
    "text_encoder.pooled_dim=8", "text_encoder.depth=1", "text_encoder.vocabulary=50", "text_encoder.length=16",
    "lr_scheduler.warmup=0", "logger=csv", "evaluation=none",
)  # fmt: skip


def pairs(n: int = 12, d: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What towers read, and their weights, in float64."""
    random = torch.Generator().manual_seed(0)
    x, y, a, b = (
        torch.randn(*shape, dtype=torch.float64, generator=random) for shape in ((n, 7), (n, 4), (7, d), (4, d))
    )
    return x, y, a.requires_grad_(), b.requires_grad_()


def batch(first: int = 0, rank: int = 0, size: int = 1) -> dict[str, Any]:
    """A rank's share of twelve pairs."""
    images = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(first)) * 2 - 1
    rows = range(12 * rank // size, 12 * (rank + 1) // size)
    texts = [f"number {first + row}" for row in rows]
    return {"image": images[rows.start : rows.stop], "text": texts, "index": torch.arange(rows.start, rows.stop)}


def towers(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(x @ a, dim=1), F.normalize(y @ b, dim=1)


def closed_form(scale: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The loss of the whole batch in one process, and its gradients."""
    x, y, a, b = pairs()
    u, v = towers(x, y, a, b)
    logits, own = scale * u @ v.T, torch.arange(len(x))
    loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    return loss, list(torch.autograd.grad(loss, (a, b, scale)))


def test_the_loss_is_the_cross_entropy_of_both_searches() -> None:
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    x, y, a, b = pairs()
    found = ContrastiveLoss()(*towers(x, y, a, b), scale)
    expected, gradients = closed_form(scale)
    assert found.total.shape == (12,)
    torch.testing.assert_close(found.total.mean(), expected)
    for ours, theirs in zip(torch.autograd.grad(found.total.mean(), (a, b, scale)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_clip_that_knows_nothing_loses_the_logarithm_of_the_batch_and_finds_one_pair() -> None:
    same = F.normalize(torch.ones(12, 3, dtype=torch.float64), dim=1)
    found = ContrastiveLoss()(same, same, torch.tensor(50.0))
    torch.testing.assert_close(found.total, torch.full((12,), math.log(12), dtype=torch.float64))
    assert found.logs["accuracy"].sum() == 1
    right = torch.eye(12, dtype=torch.float64)
    assert ContrastiveLoss()(right, right, torch.tensor(100.0)).total.max() < 1e-40
    assert ContrastiveLoss()(right, right, torch.tensor(100.0)).logs["accuracy"].eq(1).all()


def test_the_scale_is_learned_and_stays_below_its_limit(tmp_path: Path) -> None:
    module = build_module(config(tmp_path, *SMALL, "module.model.temperature=0.01"))
    assert isinstance(module, ContrastiveModule)
    module.trainer = Ranked(1, 0)
    torch.testing.assert_close(module.model.scale, torch.tensor(100.0))
    optimizer = module.configure_optimizers()["optimizer"]
    module.training_step(batch(), 0)["loss"].backward()
    assert module.model.log_scale.grad != 0, "the limit is no end of learning"
    for gradient, moves in ((-1.0, False), (100.0, True)):  # a step down the gradient, upwards and then downwards
        module.model.log_scale.grad.fill_(gradient)
        optimizer.step()
        module.average_weights()
        assert (module.model.scale.item() < 99.99) is moves
        assert module.average.scale <= 100.001


WRONG: list[tuple[str, Any, str]] = [
    ("data.batch_size", 1, r"data\.batch_size is 1"),
    ("micro_batch", 4, "which a part of it does not hold"),
    ("trainer.accumulate_grad_batches", 2, "which a part of it does not hold"),
    ("text_encoder.pooled_dim", 0, r"set text_encoder\.pooled_dim"),
    ("module.model.dim", 0, r"module\.model\.dim is at least 1"),
    ("module.model.temperature", 0.001, r"module\.model\.temperature is at least 0\.01"),
    ("module.model.image.groups", 3, r"module\.model\.image\.groups=3"),
    ("module.model.image.widths", [8] * 6, "multiple of 64"),
    ("module.model.image.blocks", 0, r"module\.model\.image\.blocks is at least 1"),
    ("evaluation.k", [0], r"evaluation\.k lists numbers from 1"),
    ("evaluation.num_samples", 0, r"evaluation\.num_samples is at least 1"),
    ("evaluation", {"_target_": "diffusion.evaluation.evaluator.Evaluator"}, "use evaluation=retrieval"),
    ("evaluation", {"_target_": "diffusion.evaluation.reconstruction.ReconstructionEvaluator"}, "evaluation=retrieval"),
]


def test_wrong_settings_are_refused_in_one_sentence_before_training(tmp_path: Path) -> None:
    right = config(tmp_path, *SMALL[:-1], "evaluation=retrieval")
    OmegaConf.set_struct(right, False)
    check(right)
    for key, value, sentence in WRONG:
        cfg = copy.deepcopy(right)
        OmegaConf.update(cfg, key, value, merge=False)
        with pytest.raises(ConfigError, match=sentence) as caught:
            check(cfg)
        assert "\n" not in str(caught.value)


def test_data_without_captions_are_refused(tmp_path: Path) -> None:
    cfg = config(tmp_path, *SMALL[:1], "data=digits", "module.model.image.widths=[8]")
    with pytest.raises(ValueError, match="digits has none; use data with captions, such as data=emoji"):
        build_module(cfg).check(build_data(cfg))


def ranks_job(rank: int, size: int, folder: str, store: str, conn: Any) -> None:
    """The gradient of one rank's share in float64, averaged as DDP does; the loss of uneven shares; and three steps of
    a module."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(0, 60))
    scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
    x, y, a, b = pairs()
    mine = slice(12 * rank // size, 12 * (rank + 1) // size)
    loss = ContrastiveLoss()(*towers(x[mine], y[mine], a, b), scale).total.mean()
    exact = [loss.detach(), *torch.autograd.grad(loss, (a, b, scale))]
    for tensor in exact:
        dist.all_reduce(tensor)
        tensor /= size
    edges = {1: [0, 12], 2: [0, 5, 12], 3: [0, 1, 9, 12]}[size]
    mine = slice(edges[rank], edges[rank + 1])
    with torch.no_grad():
        uneven = ContrastiveLoss()(*towers(x[mine], y[mine], a, b), scale, even=False).total.sum()
    dist.all_reduce(uneven)
    module = build_module(config(Path(folder), *SMALL, "optimizer.eps=1e-3"))  # some gradients are rounding
    module.trainer = Ranked(size, rank)
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    for step in range(3):
        module.trainer.global_step = step
        optimizer.zero_grad()
        found = module.training_step(batch(12 * step, rank, size), 0)
        found["loss"].backward()
        mean = found["loss"].detach().clone()
        for tensor in (mean, *(p.grad for p in module.model.parameters())):
            dist.all_reduce(tensor)
            tensor /= size
        losses.append(float(mean))
        optimizer.step()
    if rank == 0:
        weights = {name: value.numpy() for name, value in module.model.state_dict().items()}
        conn.send(([t.numpy() for t in exact], float(uneven / 12), losses, weights))
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_exact_on_any_number_of_ranks(tmp_path: Path) -> None:
    loss, gradients = closed_form(torch.tensor(9.0, dtype=torch.float64, requires_grad=True))
    results = on_ranks(ranks_job, tmp_path)
    for exact, uneven, losses, weights in results:
        for ours, theirs in zip(exact, (loss.detach(), *gradients), strict=True):
            torch.testing.assert_close(torch.as_tensor(ours), theirs, rtol=1e-12, atol=1e-14)
        assert uneven == pytest.approx(float(loss), rel=1e-12)
        torch.testing.assert_close(torch.tensor(losses), torch.tensor(results[0][2]), rtol=1e-5, atol=1e-5)
        for name, value in results[0][3].items():
            torch.testing.assert_close(torch.as_tensor(weights[name]), torch.as_tensor(value), rtol=1e-3, atol=2e-4)
