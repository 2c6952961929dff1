"""evaluation=classification: accuracy against counting by hand, and what it is refused for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import config
from torch import Tensor, nn

from diffusion.data.digits import Digits
from diffusion.denoiser import NetworkDenoiser
from diffusion.errors import ConfigError
from diffusion.evaluation.classification import ClassificationEvaluator
from diffusion.experiment.config.validate import check
from diffusion.model import DiffusionModel
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.schedule.cosine import CosineSchedule
from diffusion.types import Cond


class Ink(nn.Module):
    """The class is the number of dark pixels modulo 10; remembers the c_noise that it is given."""

    numbers = ()

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        self.seen.append(c_noise)
        return nn.functional.one_hot((x > 0).flatten(1).sum(1) % 10, 10).float()


def test_accuracy_is_the_share_of_own_classes_at_the_least_noise(tmp_path: Path) -> None:
    network = Ink()
    model = DiffusionModel(NetworkDenoiser(network, CosineSchedule(), EpsilonParameterization()), shape=(1, 8, 8))
    data = Digits()
    test = data.split("test")
    guessed = (test.images > 127).flatten(1).sum(1) % 10
    result = ClassificationEvaluator().evaluate(model, data, tmp_path)
    due = int((guessed == test.labels).sum()) / 897
    assert result.metrics == {"accuracy_897": pytest.approx(due)}
    assert set(torch.cat(network.seen).tolist()) == {0.0}, "the first knot of a table has the index 0"
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert (record["metrics"], record["better"]) == (result.metrics, {"accuracy_897": "higher"})
    assert list(ClassificationEvaluator(num_samples=50).evaluate(model, data).metrics) == ["accuracy_50"]


def test_a_classifier_is_scored_by_its_accuracy_and_nothing_else_is(tmp_path: Path) -> None:
    classifier = ["objective=classification", "network=classifier_digits", "conditioner=label", "logger=csv"]
    check(config(tmp_path, *classifier, "evaluation=classification"))
    for words, sentence in (
        ([*classifier, "evaluation=digits"], "a classifier draws no samples to score; use evaluation=classification"),
        (["evaluation=classification", "logger=csv"], "scores objective=classification; choose another"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            check(config(tmp_path, *words))
