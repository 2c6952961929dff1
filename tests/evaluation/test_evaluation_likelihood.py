"""Bits per dimension as a metric: the analytic value of a Gaussian, the bound above it, the same on any ranks."""

from __future__ import annotations

import json
import math
import multiprocessing as mp
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pipelines import pipeline
from test_evaluation_scripts import TWO, script, taken
from torch import Tensor

from diffusion.conditioner.label import LabelConditioner
from diffusion.data.split import Split
from diffusion.denoiser import GaussianDenoiser
from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.likelihood.base import Likelihood
from diffusion.evaluation.likelihood.flow import FlowLikelihood
from diffusion.evaluation.likelihood.variational import VariationalLikelihood
from diffusion.evaluation.ranks import Ranks
from diffusion.guidance.clip import ClipGuidance
from diffusion.pipeline.keyed import quantise
from diffusion.pipeline.single import SinglePipeline
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.base import Schedule
from diffusion.schedule.cosine import CosineSchedule
from diffusion.schedule.flow import FlowSchedule as FlowSchedule

SHAPE = (1, 4, 4)
MEAN = torch.linspace(-0.4, 0.4, 16).reshape(SHAPE)
STD = torch.linspace(0.1, 0.25, 16).reshape(SHAPE)


class Drawn:
    """Images of 256 greys from the Gaussian; no value reaches the ends of the range but by chance."""

    def split(self, name: str) -> Split:
        z = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(0))
        return Split(quantise(MEAN + STD * z), torch.arange(40) % 3)


def model(schedule: Schedule, **parts: Any) -> SinglePipeline:
    return pipeline(GaussianDenoiser(schedule, MEAN, STD), DDIMSampler(2), SHAPE, **parts)


def analytic() -> Tensor:
    """Bits per dimension of each image: minus the logarithm of the Gaussian's mass in the bin of each value."""
    x = Drawn().split("test").images.double() / 127.5 - 1
    normal = torch.distributions.Normal(MEAN.double(), STD.double())
    mass = normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)
    return -mass.log2().flatten(1).mean(1)


def test_the_flow_gives_the_analytic_value() -> None:
    found = FlowLikelihood(rtol=1e-6, atol=1e-6).measure(model(FlowSchedule()), Drawn(), Ranks(), seed=0)
    assert list(found.metrics) == ["bits_per_dim_flow_40", "bits_per_dim_flow_std_40"]
    assert found.metrics["bits_per_dim_flow_40"] == pytest.approx(float(analytic().mean()), abs=2e-3)
    assert found.metrics["bits_per_dim_flow_std_40"] == pytest.approx(float(analytic().std()), abs=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("variance", [None, "small", "large"])
def test_the_bound_lies_above_the_analytic_value_and_falls_to_it(variance: str | None) -> None:
    """The images are the Gaussian's own, so on average over draws no chain of steps can beat it."""
    bound = VariationalLikelihood(variance=variance)
    coarse, fine = (
        sum(
            bound.measure(model(CosineSchedule(T)), Drawn(), Ranks(), seed=seed).metrics["bits_per_dim_variational_40"]
            / 8
            for seed in range(8)
        )
        for T in (20, 200)
    )
    exact = float(analytic().mean())
    assert exact < min(fine, coarse)
    if variance != "small":  # whose last steps are too sure of themselves
        assert fine < exact + 0.5 * (coarse - exact)


@pytest.mark.parametrize("likelihood", [VariationalLikelihood(7, 3), FlowLikelihood(7, 3)])
def test_a_number_of_images_is_spread_over_the_split_and_named(likelihood: Likelihood) -> None:
    found = likelihood.measure(model(CosineSchedule(20)), Drawn(), Ranks(), seed=0)
    assert f"bits_per_dim_{likelihood.name}_7" in found.metrics
    assert (found.record["num"], found.record["of"]) == (7, 40)
    other = likelihood.measure(model(CosineSchedule(20)), Drawn(), Ranks(), seed=1)
    assert other.metrics != found.metrics
    assert other.metrics.keys() == found.metrics.keys()


def test_a_image_has_its_own_draws_and_its_own_class() -> None:
    seen: list[tuple[int, ...]] = []

    class Watching(LabelConditioner):
        def forward(self, batch: dict[str, Tensor]) -> Any:
            seen.append(tuple(batch["label"].tolist()))
            return super().forward(batch)

    parts = {"conditioner": Watching(3, dim=4), "num_classes": 3, "labels": 0}
    by_batch = [
        VariationalLikelihood(7, batch).measure(model(CosineSchedule(20), **parts), Drawn(), Ranks(), seed=0).metrics
        for batch in (2, 7)
    ]
    assert by_batch[0] == pytest.approx(by_batch[1], rel=1e-6)
    rows = [40 * i // 7 for i in range(7)]
    assert sum(seen[:-1], ()) == seen[-1] == tuple(row % 3 for row in rows)


def test_clipping_is_part_of_the_chain() -> None:
    """Where data lie inside the range a clipped chain is no worse, and it is another one."""
    plain, clipped = model(CosineSchedule(50)), model(CosineSchedule(50))
    clipped.denoiser = ClipGuidance(clipped.denoiser, -0.5, 0.5)
    values = [VariationalLikelihood().measure(m, Drawn(), Ranks(), seed=0).metrics for m in (plain, clipped)]
    assert values[0] != values[1]


def both() -> list[dict[str, float]]:
    """11 images in batches of 2: divisible by neither the batch nor the ranks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            kind(11, 2).measure(model(CosineSchedule(20)), Drawn(), Ranks(), seed=3).metrics
            for kind in (VariationalLikelihood, FlowLikelihood)
        ]
    finally:
        torch.set_num_threads(threads)


def job(rank: int, size: int, store: str, conn: Any) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    conn.send(both())
    dist.destroy_process_group()


@pytest.mark.slow
def test_three_ranks_say_what_one_says(tmp_path: Path) -> None:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["diffusion.evaluation.evaluator"])
    pipes, processes = [], []
    for rank in range(3):
        mine, theirs = context.Pipe()
        processes.append(context.Process(target=job, args=(rank, 3, str(tmp_path / "store"), theirs)))
        pipes.append(mine)
        processes[-1].start()
    answers = [pipe.recv() if pipe.poll(60) else None for pipe in pipes]
    for process in processes:
        process.join(20)
    assert answers == [both()] * 3


def test_images_have_no_likelihood() -> None:
    evaluator = Evaluator(num_samples=20, likelihood=FlowLikelihood())
    with pytest.raises(ValueError, match="of one run and its data"):
        evaluator.evaluate(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), None)


@pytest.mark.slow
def test_a_training_on_two_ranks_and_the_script_alone_say_the_same(tmp_path: Path) -> None:
    """Digits from end to end: the bound at the end of a training on two ranks and by the script; the flow by it."""
    small = ["network.channels=8", "schedule.T=50", "trainer.max_steps=2", "sampler=ddim", "sampler.steps=2"]
    small += ["logger=csv", "callbacks=[checkpoint]", "evaluation.num_samples=32", "evaluation.metrics=[fd]"]
    bound = ["evaluation/likelihood=variational", "evaluation.likelihood.num_samples=50"]
    bound += ["evaluation.likelihood.batch_size=16"]
    run = tmp_path / "run"
    script("train", *small, *bound, "trainer=ddp", *TWO, "trainer.precision=32-true", f"hydra.run.dir={run}")
    trained = taken(run)
    name = "bits_per_dim_variational_50"
    assert 0 < trained["metrics"][name] < math.inf
    assert trained["fingerprint"]["likelihood"]["class"] == "VariationalLikelihood"
    assert trained["fingerprint"]["cost"]["likelihood_nfe"] == 50
    script("evaluate", f"run={run}")
    assert taken(run)["metrics"] == trained["metrics"]
    flow = ["evaluation/likelihood=flow", "evaluation.likelihood.num_samples=4"]
    loose = ["evaluation.likelihood.rtol=1e-2", "evaluation.likelihood.atol=1e-2"]
    script("evaluate", f"run={run}", "evaluation=digits", "evaluation.num_samples=32", *flow, *loose)
    exact = taken(run)
    assert 0 < exact["metrics"]["bits_per_dim_flow_4"] < math.inf
    assert json.dumps(exact["fingerprint"]["likelihood"]) != json.dumps(trained["fingerprint"]["likelihood"])
