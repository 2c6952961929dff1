"""The contract of a conditioner: a condition with its null, through a step of training and samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from diffusion.conditioner.base import Conditioner
from diffusion.data.digits import Digits
from diffusion.denoiser import NetworkDenoiser
from diffusion.evaluation.evaluator import Evaluator
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.model import DiffusionModel
from diffusion.parameterization.velocity import VelocityParameterization
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.testing.network import TinyNetwork
from diffusion.types import Cond

SLOTS = ("vector", "tokens", "image")


def small_batch(
    columns: tuple[str, ...], count: int = 4, embedding_dim: int = 768, shape: tuple[int, int, int] = (1, 8, 8)
) -> dict[str, Any]:
    """Images in [-1, 1], labels 0 and 1, texts, embeddings of images, low-resolution and reference images where they
    are named, and a number in [0, 1) in every other column that is named.

    embedding_dim: width of the embeddings. shape: of an image; a low-resolution one has a quarter of its side.
    """
    index, random = torch.arange(count), torch.Generator().manual_seed(0)
    numbers = dict.fromkeys(columns, index / count)
    image = torch.rand(count, *shape, generator=random) * 2 - 1
    if "image_embedding" in columns:
        numbers["image_embedding"] = torch.randn(count, embedding_dim, generator=random)
    if "low_resolution" in columns:
        numbers["low_resolution"] = torch.nn.functional.avg_pool2d(image, 4)
    if "reference" in columns:
        numbers["reference"] = image.flip(0)
    texts = [f"the number {i % 2}" for i in range(count)]
    return {**numbers, "image": image, "label": index % 2, "text": texts, "index": index}


def check_conditioner(conditioner: Conditioner, batch: Mapping[str, Any] | None = None) -> None:
    """A condition is a function of its columns, differs from its null, has the widths that are declared, and goes
    through guided samples and an evaluation.

    Args:
        batch: 4 samples with the conditioner's columns, not all alike; where ``None`` those of :func:`small_batch`.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    name = type(conditioner).__name__
    conditioner = conditioner.eval()
    batch = small_batch(conditioner.columns) if batch is None else batch
    with torch.no_grad():
        cond, again = conditioner(batch), conditioner(batch)
    if not conditioner.columns and conditioner.optional:
        counts = {len(number) for number in cond.numbers.values()}
        assert not cond.is_empty, f"{name} may read {', '.join(conditioner.optional)}, and gives nothing without"
        assert counts <= {len(batch["index"])}, f"{name} gives numbers of {counts} samples for {len(batch['index'])}"
        return
    if not conditioner.columns:
        assert cond.is_empty, f"{name} gives a condition and names no column that it reads: set columns"
        return
    assert not cond.is_empty, f"{name} reads {', '.join(conditioner.columns)} and gives an empty condition"
    assert _same(cond, again), f"{name} gives another condition for the same batch: no draw belongs in a conditioner"
    widths = {
        "dim": (conditioner.dim, 0 if cond.vector is None else cond.vector.shape[1]),
        "token_dim": (conditioner.token_dim, 0 if cond.tokens is None else cond.tokens.shape[2]),
        "image_channels": (conditioner.image_channels, 0 if cond.image is None else cond.image.shape[1]),
    }
    for key, (declared, got) in widths.items():
        assert declared == got, f"{name}.{key} is {declared} and its condition has {got}: the network is built to it"
    assert cond.null is not None, f"{name} gives a condition without a null, so that it cannot be dropped or guided"
    for slot in SLOTS:
        value, null = getattr(cond, slot), getattr(cond.null, slot)
        assert (value is None) == (null is None), f"{name} fills {slot} in its condition or in its null, not in both"
        assert value is None or len(value) == len(null) == len(batch["index"]), f"{name} gives {slot} not one a sample"
    assert not _same(cond, cond.null), (
        f"the null of {name} equals its condition: guidance would change nothing; the null stands for no condition"
    )
    assert _varies(cond), f"{name} gives all samples of a batch the same condition, whatever its columns hold"
    _check_samples(name, conditioner, batch)


def _check_samples(name: str, conditioner: Conditioner, batch: Mapping[str, Any]) -> None:
    """A grid drawn from the data's columns, an evaluation of the same samples, and guidance away from the null."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TinyNetwork()
    denoiser = NetworkDenoiser(network, CosineSchedule(), VelocityParameterization())
    model = DiffusionModel(denoiser, conditioner, sampler=DDIMSampler(2), shape=(1, 8, 8)).eval()
    columns = {column: batch[column] for column in conditioner.columns}
    pipeline = model.pipeline(columns=columns, batch_size=4)
    grid = pipeline.draw(torch.arange(4), 0)
    assert list(grid.shape) == [4, 1, 8, 8], f"samples under {name} have the shape {list(grid.shape)}"
    evaluator = Evaluator(metrics=["is"], num_samples=4, batch_size=4, is_splits=1, cache=None)
    score = evaluator.evaluate(pipeline, Digits(), real_baseline=False)
    assert all(value == value for value in score.metrics.values()), f"an evaluation under {name} is not a number"
    with torch.no_grad():
        cond, x = model.condition(batch), torch.zeros(4, 1, 8, 8)
        guided = ClassifierFreeGuidance(denoiser, 2.0)(x, 0.5, cond)
    assert torch.isfinite(guided.x0).all(), f"guidance away from the null of {name} is not finite"


def _same(a: Cond, b: Cond) -> bool:
    pairs = [(getattr(a, slot), getattr(b, slot)) for slot in (*SLOTS, "mask")]
    pairs += [(a.numbers.get(key), b.numbers.get(key)) for key in {*a.numbers, *b.numbers}]
    return all(x is y or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs)


def _varies(cond: Cond) -> bool:
    flat = replace(cond, null=None, parts={}, source=None)
    values = [getattr(flat, slot) for slot in (*SLOTS, "mask")] + list(flat.numbers.values())
    return any(value is not None and not (value == value[:1]).all() for value in values)
