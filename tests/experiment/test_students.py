"""Students of another run: chains of them, and what cannot be taught is one sentence before any training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import config
from model_folders import run_folder

from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build_module
from diffusion.experiment.build.load import identities
from diffusion.experiment.config.resolvers import halving
from diffusion.experiment.config.validate import check
from diffusion.parameterization.consistency import ConsistencyParameterization
from diffusion.parameterization.edm import EDMParameterization

CLOTHES = ["data=fashion_mnist", "network.channel_mult=[1,2]", "network.attention=[]"]
KINDS = ("progressive", "consistency_distillation", "guidance_distillation")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run_folder(folder, "labels", "conditioner=label", "parameterization=velocity")
    run_folder(folder, "clothes", "conditioner=label", "parameterization=velocity", *CLOTHES)
    run_folder(folder, "epsilon", "conditioner=label")
    run_folder(folder, "edm", "conditioner=label", "schedule=edm", "parameterization=edm")
    return folder


def student(tmp_path: Path, runs: Path, teacher: str, *words: str):
    keys = ["logger=csv", "evaluation=none", "conditioner=label", "parameterization=velocity", "network.channels=8"]
    return config(tmp_path / "run", *keys, *words, f"objective.teacher.run={runs / teacher}")


@pytest.mark.parametrize(
    ("teacher", "words", "says"),
    [
        ("clothes", ["objective=progressive"], r"objective\.teacher is of another data set .*set objective\.teacher"),
        ("epsilon", ["objective=progressive", "initial.run={teacher}"],
         r"initial\.run is the teacher, whose network was trained with EpsilonParameterization, and this student has"),
        ("labels", ["objective=consistency_distillation", "objective.scales=[1,3]", "conditioner=none"],
         r"objective\.scales are of guidance, which strengthens a condition"),
        ("labels", ["objective=guidance_distillation", "network.numbers=[guidance]",
                    "guidance=[distilled,classifier_free]"], r"guidance=classifier_free would guide once more"),
    ],
)  # fmt: skip
def test_what_cannot_be_taught_is_refused_from_the_configs_alone(
    tmp_path: Path, runs: Path, teacher: str, words: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        check(student(tmp_path, runs, teacher, *(word.format(teacher=runs / teacher) for word in words)))


def test_a_consistency_model_starts_from_edms_network(tmp_path: Path, runs: Path) -> None:
    """Song et al. 2023 start so; the two targets agree far from the least noise."""
    words = ["objective=consistency_distillation", f"initial.run={runs / 'edm'}", "schedule=edm"]
    check(student(tmp_path, runs, "edm", *words, "parameterization=consistency"))
    alpha, sigma = torch.ones(3, dtype=torch.float64), torch.tensor([0.5, 5.0, 80.0], dtype=torch.float64)
    x, output = torch.randn(2, 3, 1, 4, 4).double()
    ours, theirs = (p().decode(output, x, alpha, sigma).x0 for p in (ConsistencyParameterization, EDMParameterization))
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01)


def test_features_are_those_of_the_teacher_and_not_of_what_stands_for_it(tmp_path: Path, runs: Path) -> None:
    words = ["objective=distribution_matching", "objective.adversarial=0.003"]
    cfg = student(tmp_path, runs, "labels", *words, "objective.features=middle")
    check(cfg)
    build_module(cfg)
    with pytest.raises(ConfigError, match="no module 'stack'"):
        build_module(student(tmp_path, runs, "labels", *words, "objective.features=stack"))


def test_a_teacher_that_is_gone_is_named_with_its_key(tmp_path: Path, runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"objective\.teacher\.run=.*gone.*set objective\.teacher\.run"):
        identities(student(tmp_path, runs, "gone", "objective=progressive"))


def test_a_chain_of_halvings_ends_at_its_first_teacher() -> None:
    chain, steps = [], 2
    while not chain or chain[-1][0] == "experiment=b":
        chain.append(halving(steps, 16, "a", "b", 7))
        steps *= 2
    assert chain == [
        *(["experiment=b", f"objective.teacher_steps={n}", "evaluation=none", "seed=7"] for n in (4, 8, 16)),
        ["experiment=a", "evaluation=none", "seed=7"],
    ]
    for wrong in (3, 1, 32, "many"):
        with pytest.raises(ConfigError, match="has teachers of 16, 8, 4, 2 steps"):
            halving(wrong, 16, "a", "b", 7)
