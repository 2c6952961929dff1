"""Every part of conf/ refuses wrong values before anything is read or trained: one sentence, exit code 2, soon."""

from __future__ import annotations

import copy
import math
import resource
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import test_contracts as contracts
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from diffusion.denoiser import NetworkDenoiser
from diffusion.errors import ConfigError
from diffusion.experiment.config.arguments import arguments
from diffusion.experiment.config.validate import check, targets
from diffusion.model import DiffusionModel

ROOT = Path(__file__).parents[2]
OUTSIDE = {"ablation", "debug", "experiment", "hydra", "hydra/launcher", "hydra/sweeper", "logger", "module", "paths"}
OUTSIDE |= {"network/outputs", "pipeline", "trainer"}
"""Groups whose keys are another part's, or another library's."""
OPTIONS = [option for option in contracts.OPTIONS if str(option.parent) not in OUTSIDE]
REAL = {"scale", "parallel", "low", "fourier_scale", "mean", "bias", "log_snr_min", "layer"}
"""Numbers that may be any: lengths with a sign, places on an axis, and an index from the end."""


def keys(cfg: DictConfig, option: Path) -> Iterator[tuple[str, Any]]:
    """Every number, switch and choice that a file of conf/ sets, with the values that it must refuse."""
    group = str(option.parent)
    place = {"operator": "guidance.dps.operator"}.get(group, group.replace("/", "."))
    for path, node in targets(cfg):
        if path != place and not path.startswith(f"{place}."):
            continue
        takes = arguments(node._target_)
        for key in map(str, node):
            if key.startswith("_") or node._get_node(key)._is_interpolation():
                continue
            value = node[key]
            if isinstance(value, bool):
                yield f"{path}.{key}", ["yes please", 7]
            elif isinstance(value, int | float):
                yield f"{path}.{key}", ["many", math.nan, *([] if key in REAL else [-7])]
            elif isinstance(value, str) and "one of" in takes.expected(key):
                yield f"{path}.{key}", ["neither", 7.5]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_a_part_refuses_texts_for_numbers_and_numbers_out_of_range(option: Path, tmp_path: Path) -> None:
    cfg = contracts.compose(option, tmp_path)
    OmegaConf.set_struct(cfg, False)
    check(cfg)
    for key, wrong in keys(cfg, option):
        right = OmegaConf.select(cfg, key)
        for value in wrong:
            OmegaConf.update(cfg, key, value)
            with pytest.raises(ConfigError) as caught:
                check(cfg)
            sentence = str(caught.value)
            assert "\n" not in sentence
            assert key.split(".")[-1] in sentence or key.split(".")[0] in sentence, f"{key}={value}: {sentence}"
        OmegaConf.update(cfg, key, right)


LPIPS = "objective=consistency_training objective/metric=lpips parameterization=velocity"
WRONG = [
    ("schedule.T=0", "schedule.T"),
    ("schedule=vp schedule.beta_min=low", "schedule.beta_min"),
    ("parameterization=edm parameterization.sigma_data=-1", "sigma_data"),
    ("sampler=ddim sampler.eta=2", "sampler.eta"),
    ("sampler=ddim sampler.steps=many", "sampler.steps"),
    ("spacing=karras spacing.rho=0", "rho"),
    ("guidance.clip.low=3", "guidance.clip"),
    ("conditioner=label guidance=apg guidance.apg.interval=[3,1]", "guidance.apg.interval"),
    ("objective.offset_noise=-1", "offset_noise"),
    ("objective/weighting=min_snr objective.weighting.gamma=no", "objective.weighting.gamma"),
    (f"{LPIPS} objective.metric.network.extractor=vgg", "one of digits-cnn-v1"),
    (f"{LPIPS} objective.metric.network.extractor=null", "objective.metric.network.extractor"),
    (f"{LPIPS} objective.metric.network.extractor=digits-cnn-v1", "set objective.metric.resolution=null"),
    (f"{LPIPS} objective.metric.network.extractor=fashion-cnn-v1", "objective/metric=pseudo_huber"),
    ("network.channels=3", "network.channels"),
    ("ema.decay=1", "ema.decay"),
    ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1"),
    ("lr_scheduler.warmup=-1", "lr_scheduler.warmup"),
    ("data.batch_size=many", "data.batch_size"),
    ("data.batch_size=0", "data.batch_size"),
    ("callbacks.samples.num_samples=0", "callbacks.samples.num_samples"),
    ("evaluation=digits evaluation.repeats=twice", "evaluation.repeats"),
    ("trainer.max_steps=ten", "trainer.max_steps"),
]


@pytest.mark.parametrize(("words", "part"), WRONG)
def test_a_script_ends_with_one_sentence_and_code_2(
    words: str, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / "train.py"), *words.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert part in line


def work(*command: str) -> float:
    """Seconds of a process, its start included; waiting for others does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def of_torchs_import(words: str, limit: float) -> float:
    """Work of the command over that of ``import torch``, the least of each, taken in turns: twice, and up to five times
    where a neighbour of one of them may have put it above the limit."""
    own, whole = math.inf, math.inf
    for turn in range(5):
        own, whole = min(own, work("scripts/train.py", *words.split())), min(whole, work("-c", "import torch"))
        if turn and own < limit * whole:
            break
    return own / whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "limit"),
    [
        ("--help", 0.5),
        ("smapler=ddim", 0.5),
        ("data.batch_size=0", 0.5),
        ("sampler=ddim sampler.eta=2", 1.7),
        ("lr_scheduler.warmup=-1", 1.7),
    ],
)
def test_names_are_refused_in_half_of_torchs_import_and_values_in_1_7_of_it(words: str, limit: float) -> None:
    assert of_torchs_import(words, limit) < limit


def test_a_part_that_passed_is_not_built_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in the plan of a sweep, where most parts of a cell are those of the one before."""
    built: list[float] = []
    monkeypatch.setattr(Counted, "built", built)
    parts = {"_target_": f"{__name__}.Counted", "amount": 1.0}
    for amount in (1.0, 2.0, 1.0, 2.0):
        check(OmegaConf.create({"schedule": {**parts, "amount": amount}, "seed": len(built)}))
    assert built == [1.0, 2.0]
    with pytest.raises(ConfigError, match=r"schedule\.amount is above 0, got -1\.0"):
        check(OmegaConf.create({"schedule": {**parts, "amount": -1.0}}))
    with pytest.raises(InstantiationException):  # a bug of a part keeps its traceback
        check(OmegaConf.create({"schedule": {**parts, "amount": 0.0}}))


def test_a_part_may_read_the_model_that_it_is_given(tmp_path: Path) -> None:
    """In its constructor, before the run that the model lies in exists: a copy of its network, a setting of its own."""
    another = {"_target_": "diffusion.load", "run": "another", "checkpoint": "last", "weights": "ema"}
    copied, guided = ({"_target_": f"{__name__}.{kind.__name__}"} for kind in (CopiesTeacher, ReadsDenoiser))
    for kind in ("denoiser", "classes"):
        check(OmegaConf.create({"objective": {**copied, "teacher": another, "reads": kind}}))
    check(OmegaConf.create({"guidance": {"it": {**guided, "_partial_": True}}}))
    with pytest.raises(ConfigError, match=r"objective\.reads is denoiser or classes, got nothing"):
        check(OmegaConf.create({"objective": {**copied, "teacher": another, "reads": "nothing"}}))


class CopiesTeacher:
    """An objective whose second player starts from its teacher."""

    def __init__(self, teacher: DiffusionModel, reads: str) -> None:
        if reads not in ("denoiser", "classes"):
            raise ValueError(f"reads is denoiser or classes, got {reads}")
        self.rival = copy.deepcopy(teacher.denoiser.network)
        self.width = sum(p.numel() for p in teacher.parameters())
        if reads == "classes":
            self.classes = teacher.denoiser.network.num_classes


class ReadsDenoiser:
    """A guidance of networks with one target."""

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        self.target = denoiser.parameterization


class Counted:
    """A part that keeps count of its instances."""

    built: ClassVar[list[float]] = []

    def __init__(self, amount: float) -> None:
        if amount < 0:
            raise ValueError(f"amount is above 0, got {amount}")
        self.built.append(1 / amount * amount**2)

    def check(self) -> None:
        """A schedule is."""
