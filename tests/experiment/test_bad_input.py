"""What cannot be sampled, scored or trained is refused by the scripts in one sentence, before any of it starts."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from model_folders import run_folder
from omegaconf import OmegaConf

from diffusion.pipeline.single import SinglePipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained runs: plain, with labels, a classifier of the digits, one of clothes, a weaker model of clothes."""
    folder = tmp_path_factory.mktemp("runs")
    classifier = ["objective=classification", "conditioner=label", "network=classifier_digits"]
    clothes = ["data=fashion_mnist", "network.channel_mult=[1,2]", "network.attention=[]"]
    made = {
        "plain": [],
        "labels": ["conditioner=label"],
        "classifier": classifier,
        "clothes": [*classifier, *clothes],
        "weak": ["conditioner=label", *clothes],
        "flow": ["schedule=flow", "parameterization=flow", "spacing=log_snr"],
        "told": [
            "objective=guidance_distillation", f"objective.teacher.run={folder / 'labels'}",
            "conditioner=label", "network.numbers=[guidance]",
        ],
    }  # fmt: skip
    for name, overrides in made.items():
        (run_folder(folder, name, *overrides) / ".hydra").mkdir()
        OmegaConf.save(OmegaConf.load(folder / name / "config.yaml"), folder / name / ".hydra" / "config.yaml")
    np.save(folder / "y.npy", np.zeros((1, 16, 16)))
    return folder


def refused(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:
    """The one sentence of a script that ends with code 2 and draws nothing."""
    drawn = []
    monkeypatch.setattr(SinglePipeline, "draw", lambda *_: drawn.append(1))
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts" / f"{script}.py"), *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(sys.argv[0], run_name="__main__")
    assert ended.value.code == 2
    assert not drawn
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    return said[0]


CASES = [
    ("plain", "sampler=ddim sampler.steps=0", "sampler.steps"),
    ("plain", "sampler=heun sampler.steps=-3", "sampler.steps"),
    ("plain", "sampler=ddim sampler.eta=1.5", "eta lies in [0, 1]"),
    ("plain", "sampler=ddim sampler.eta=-0.1", "eta lies in [0, 1]"),
    ("plain", "sampler.steps=1001", "at most 1000"),
    ("plain", "spacing=indices spacing.indices=[10,900,0] sampler=ddim sampler.steps=3", "indices decrease strictly"),
    ("plain", "spacing=indices spacing.indices=[1000,9,0] sampler=ddim sampler.steps=3", "lie in 0..999"),
    ("plain", "sampler.variance=learned", "learned_variance=true"),
    ("plain", "guidance=[classifier_free,clip]", "conditioner=label"),
    ("plain", "guidance=apg", "conditioner=label"),
    ("plain", "guidance=cfg_plus_plus", "conditioner=label"),
    ("plain", "guidance=classifier guidance.classifier.classifier.run={runs}/classifier labels=10", "labels"),
    ("plain", "guidance=dps guidance.dps.measurement={runs}/y.npy", "guidance.dps.measurement"),
    ("plain", "guidance=inpaint guidance.inpaint.measurement={runs}/none.npy", "no file"),
    ("labels", "guidance=classifier_free guidance.classifier_free.interval=[2,0.5]", "0 <= low <= high"),
    ("labels", "guidance=classifier guidance.classifier.classifier.run={runs}/clothes", "another data set"),
    ("labels", "guidance=classifier guidance.classifier.classifier.run={runs}", "not a run folder"),
    ("labels", "guidance=auto guidance.auto.weak.run={runs}/weak", "another data set"),
    ("told", "guidance=distilled guidance.distilled.scale=9", "scales in [1.0, 5.0], got 9; set guidance.distilled"),
    ("labels", "guidance=distilled", "needs a model that was told guidance scales"),
    ("flow", "sampler=reverse_diffusion spacing=trailing", "drift is infinite"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "run", "words", "says"),
    [*(("sample", *case) for case in CASES), *(("evaluate", *case) for case in CASES[::4])],
)
def test_a_run_is_not_sampled_as_asked(script, run, words, says, runs, monkeypatch, capsys):
    more = ["evaluation=digits"] if script == "evaluate" else []
    said = refused(script, [f"run={runs / run}", *words.format(runs=runs).split(), *more], monkeypatch, capsys)
    assert said.startswith("error: ")
    assert says in said
    assert not list((runs / run).glob("samples/*")) + list((runs / run).glob("evaluation/*"))


@pytest.mark.parametrize(
    ("run", "words", "says"),
    [
        ("flow", "evaluation/likelihood=variational", "schedule is continuous"),
        ("labels", "evaluation/likelihood=flow guidance=cfg_plus_plus", "acts between steps"),
        ("labels", "evaluation/likelihood=variational guidance=cfg_plus_plus", "acts between steps"),
        ("plain", "evaluation/likelihood=flow evaluation.likelihood.num_samples=1", "likelihood.num_samples"),
        ("plain", "evaluation/likelihood=flow evaluation.likelihood.rtol=0", "rtol"),
        ("plain", "evaluation/likelihood=variational evaluation.likelihood.variance=medium", "small, large, learned"),
    ],
)  # fmt: skip
def test_a_likelihood_that_is_not_defined_is_not_measured(run, words, says, runs, monkeypatch, capsys):
    said = refused("evaluate", [f"run={runs / run}", "evaluation=digits", *words.split()], monkeypatch, capsys)
    assert says in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("sampler=ddim sampler.eta=2", "eta lies in [0, 1]"),
        ("spacing=indices spacing.indices=[0,5] sampler.steps=2", "indices decrease strictly"),
        ("guidance=apg", "conditioner=label"),
        ("conditioner=label guidance=apg guidance.apg.interval=[3,1]", "0 <= low <= high"),
        ("conditioner=label guidance=auto guidance.auto.weak.run={runs}/weak", "another data set"),
        ("sampler=reverse_diffusion schedule=flow parameterization=flow spacing=trailing", "drift is infinite"),
        ("evaluation/likelihood=variational schedule=vp sampler=ddim", "schedule is continuous"),
        ("evaluation=none evaluation/likelihood=flow", "choose one too"),
    ],
)
def test_nothing_is_trained_that_could_not_be_sampled_or_scored(words, says, runs, tmp_path, monkeypatch, capsys):
    where = [f"hydra.run.dir={tmp_path / 'run'}", "logger=csv"]
    said = refused("train", [*where, *words.format(runs=runs).split()], monkeypatch, capsys)
    assert says in said
    assert not list(tmp_path.rglob("*.ckpt"))
