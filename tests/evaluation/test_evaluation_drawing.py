"""Samples keyed by index: the same in any batch, with labels and counted network calls, in whatever memory there is."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import model, pipeline
from torch import Tensor, nn

from diffusion.conditioner.base import Conditioner
from diffusion.data.digits import Digits
from diffusion.denoiser import GaussianDenoiser, NetworkDenoiser
from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.forecast import duration, memory
from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.pipeline.base import Request
from diffusion.pipeline.keyed import quantise
from diffusion.pipeline.single import SinglePipeline
from diffusion.sampler.ancestral import AncestralSampler
from diffusion.sampler.ddim import DDIMSampler
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond, Prediction


def test_stored_images_survive_scaling_and_quantisation() -> None:
    stored = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(quantise(stored.float() / 127.5 - 1), stored)


def test_quantisation_rounds_halves_up_and_clamps() -> None:
    between = torch.tensor([[10.5, 10.49, -3.0, 300.0]]) / 127.5 - 1
    assert quantise(between.double()).tolist() == [[11, 10, 0, 255]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_images_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 images"):
        quantise(torch.tensor([[0.0, bad], [0.0, 1.0]]))


def test_a_sample_is_the_same_in_any_batch() -> None:
    generator = model()
    together = generator.draw(torch.arange(7), seed=3)
    apart = torch.cat([generator.draw(index, seed=3) for index in torch.arange(7).flip(0).split(2)])
    assert torch.equal(together, apart.flip(0))
    assert not torch.equal(together, generator.draw(torch.arange(7), seed=4))


class Coupled(GaussianDenoiser):
    """Every sample depends on all others of its batch and on its own place, as kernels and adaptive solvers may."""

    def __call__(self, x: Tensor, t: Any, cond: Cond = Cond()) -> Prediction:  # noqa: B008 - frozen and empty
        answer = super().__call__(x, t, cond)
        shift = x.mean() + torch.linspace(0, 0.5, len(x)).reshape(-1, 1, 1, 1)
        return Prediction(x0=answer.x0 + shift, eps=answer.eps - shift)


def test_neither_the_number_of_samples_nor_their_choice_changes_a_bit() -> None:
    """Of a model whose samples depend on the batch: at one batch_size, every batch holds the same samples."""
    coupled = Coupled(CosineSchedule(), torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.5))

    def drawn(index: list[int], batch_size: int = 4) -> Tensor:
        made = pipeline(coupled, AncestralSampler(4), (1, 8, 8), num_classes=3, batch_size=batch_size)
        return made.draw(torch.tensor(index), seed=3)

    whole = drawn(list(range(23)))
    for index in ([0], [22], [1, 6, 11, 17, 22], [5, 0, 5], list(range(9)), list(range(22, -1, -1))):
        assert torch.equal(drawn(index), whole[index]), index
    assert not torch.equal(drawn(list(range(23)), batch_size=5), whole), "and another batch_size is another request"


def test_label_policies() -> None:
    index = torch.arange(1000)
    assert torch.equal(model().labels(index, 0), index % 10)
    assert set(model(labels=3).labels(index, 0).tolist()) == {3}
    drawn = model(labels="drawn").labels(index, 0)
    assert torch.equal(drawn[500:], model(labels="drawn").labels(index[500:], 0))
    # Counts of a fair ten-sided die over 1000 throws: standard deviation sqrt(1000 * 0.1 * 0.9) = 9.5.
    assert (drawn.bincount(minlength=10) - 100).abs().max() < 5 * 9.5
    assert model(labels=[3, 7, 7]).labels(index, 0).tolist() == [[3, 7, 7][i % 3] for i in range(1000)]
    for wrong in (10, -1, "cat", [3, 10], []):
        with pytest.raises(ValueError, match="'balanced', 'drawn' or classes below 10"):
            model(labels=wrong)


class Zero(nn.Module):
    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        return torch.zeros_like(x)


class Hungry(Zero):
    """Has memory for so many samples at once."""

    limit = 3

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x, label, cond)


def drawn_with(network: nn.Module) -> SinglePipeline:
    return pipeline(
        NetworkDenoiser(network, CosineSchedule(), EpsilonParameterization()), AncestralSampler(5), (1, 8, 8)
    )


def test_what_memory_cannot_hold_is_drawn_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    roomy, tight = drawn_with(Zero()), drawn_with(Hungry())
    for index in (torch.arange(10), torch.arange(10, 12)):
        assert torch.equal(roomy.draw(index, seed=1), tight.draw(index, seed=1))
    assert "no memory for 16 samples at once; drawing 8 at a time" in caplog.text
    assert (roomy.max_batch, tight.max_batch) == (None, 2)
    assert (tight.drawn, tight.calls) == (roomy.drawn, roomy.calls) == (12, 60)


def test_memory_for_not_even_one_sample_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "limit", 0)
    with pytest.raises(torch.OutOfMemoryError):
        drawn_with(Hungry()).draw(torch.arange(4), seed=0)


def test_the_record_says_which_batches_were_drawn_in_parts() -> None:
    plan = Evaluator(num_samples=14, batch_size=6, metrics=["fd"])
    for network, said in ((Hungry(), 2), (Zero(), None)):  # 6 + 6 + 2: the last one fits
        record = plan.evaluate(drawn_with(network), Digits()).fingerprint
        assert record["samples"].get("batches_in_parts") == said


class Slow(SinglePipeline):
    def draw(self, index: Tensor, seed: int, request: Request = Request()) -> Tensor:  # noqa: B008 - frozen and empty
        time.sleep(0.05)
        return super().draw(index, seed, request)


def test_a_forecast_keeps_what_it_drew_and_is_right(tmp_path: Path) -> None:
    plan = Evaluator(num_samples=100, batch_size=16, repeats=2, metrics=["fd"], cache=str(tmp_path / "cache"))
    denoiser = NetworkDenoiser(Zero(), CosineSchedule(), EpsilonParameterization())
    generator = pipeline(denoiser, AncestralSampler(5), (1, 8, 8), Slow)
    told = plan.forecast(generator, Digits(), tmp_path, batches=3)
    assert (told.samples, told.repeats, told.batches, told.left, told.ranks) == (100, 2, 14, 11, 1)
    assert told.nfe_per_sample == 5
    assert told.rows_bytes == 100 * 64 * 4
    began = time.monotonic()
    result = plan.evaluate(generator, Digits(), tmp_path)
    assert generator.drawn == 200
    assert 0.2 < told.sampling_seconds / (time.monotonic() - began) < 3
    assert result.metrics == plan.evaluate(drawn_with(Zero()), Digits()).metrics
    later = plan.forecast(generator, Digits(), tmp_path / "elsewhere", batches=1)
    assert later.reference_seconds < told.reference_seconds  # the 900 training images are in the cache now
    assert "14 batches, 3 of them on disk. About 1 s for the rest on 1 rank (" in str(told)


def test_durations_and_memory_as_people_say_them() -> None:
    assert [memory(size) for size in (25_600, 999_000_000, 3_140_000_000)] == ["0 MB", "999 MB", "3.1 GB"]
    assert [duration(s) for s in (3.4, 89, 91, 5000, 12_000)] == ["3 s", "89 s", "2 min", "83 min", "3 h 20 min"]


class Labels(Conditioner):
    columns = ("label",)

    def empty(self, count: int) -> Cond:
        return Cond(class_label=torch.full((count,), 10))

    def forward(self, batch: dict[str, Tensor]) -> Cond:
        return Cond(class_label=batch["label"], null=Cond(class_label=torch.full_like(batch["label"], 10)))


@pytest.mark.parametrize(("scale", "calls"), [(None, 5), (1.0, 5), (2.0, 10)])
def test_network_evaluations_are_counted_with_guidance(scale: float | None, calls: int) -> None:
    denoiser = NetworkDenoiser(Zero(), CosineSchedule(), EpsilonParameterization())
    guided = denoiser if scale is None else ClassifierFreeGuidance(denoiser, scale=scale)
    generator = pipeline(guided, DDIMSampler(5), (1, 8, 8), conditioner=Labels(), num_classes=10)
    generator.draw(torch.arange(3), seed=0)
    generator.draw(torch.arange(3, 5), seed=0)
    assert generator.calls == 5 * calls
