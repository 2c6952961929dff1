"""``evaluation=likelihood``: bits per dimension without samples, features or a reference, from training to table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import config
from scripts_in_process import run_script

from diffusion.evaluation.features.extractor import Extractor
from diffusion.evaluation.likelihood import LikelihoodEvaluator, VariationalLikelihood
from diffusion.experiment.task import train
from diffusion.pipeline.single import SinglePipeline
from diffusion.reporting.runs import find
from diffusion.reporting.table import compare

NAME = "bits_per_dim_variational_8"
SMALL = ["logger=csv", "network.channels=8", "schedule.T=20", "trainer.max_steps=1", "callbacks=[checkpoint]"]
SMALL += ["sampler=ddim", "sampler.steps=2"]


@pytest.fixture
def nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an extractor was built, or a sample drawn")

    monkeypatch.setattr(Extractor, "__init__", refuse)
    monkeypatch.setattr(SinglePipeline, "draw", refuse)


def scores(run: Path) -> dict[str, dict]:
    return {path.parent.name: json.loads(path.read_text()) for path in run.glob("evaluation/*/metrics.json")}


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_is_drawn")
def test_a_training_a_script_and_a_table_have_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, eight = tmp_path / "run", "evaluation.likelihood.num_samples=8"
    run_script(f"scripts/train.py {' '.join(SMALL)} evaluation=likelihood {eight} hydra.run.dir={run}")
    (trained,) = scores(run).values()
    assert set(trained["metrics"]) == {NAME, NAME.replace("_8", "_std_8")}
    assert "extractor" not in trained["fingerprint"]
    run_script(f"scripts/evaluate.py run={run}")
    assert [one["metrics"] for one in scores(run).values()] == [trained["metrics"]]
    flow = "evaluation/likelihood=flow evaluation.likelihood.rtol=0.5 evaluation.likelihood.atol=0.5"
    run_script(f"scripts/evaluate.py run={run} {flow} evaluation.likelihood.num_samples=2")  # no setting of the bound's
    assert {name for one in scores(run).values() for name in one["metrics"]} > {"bits_per_dim_flow_2"}
    table = compare(*find([run]))
    assert NAME in table.metrics
    assert not [name for name in table.metrics if name.startswith(("fd", "kid", "is"))]
    capsys.readouterr()
    for line, sentence in (
        (f"scripts/evaluate.py run={run} plan=true", "not foretold; leave plan=true out"),
        (f"scripts/evaluate.py images={tmp_path} data=digits evaluation=likelihood", "images have no likelihood"),
        ("scripts/reference.py evaluation=likelihood", "a reference is made of an extractor's features"),
    ):
        with pytest.raises(pytest.fail.Exception, match="ended with 2"):
            run_script(line)
        assert sentence in capsys.readouterr().err


def test_it_is_the_number_that_stands_beside_an_evaluation(tmp_path: Path) -> None:
    bound = ["evaluation.likelihood.num_samples=8"]
    small = ["evaluation.num_samples=20", "evaluation.metrics=[fd]"]
    train.train(config(tmp_path / "alone", *SMALL, "evaluation=likelihood", *bound))
    train.train(
        config(tmp_path / "beside", *SMALL, "evaluation=digits", "evaluation/likelihood=variational", *bound, *small)
    )
    alone, beside = (next(iter(scores(tmp_path / name).values())) for name in ("alone", "beside"))
    assert alone["metrics"][NAME] == beside["metrics"][NAME]
    assert alone["fingerprint"]["likelihood"] == beside["fingerprint"]["likelihood"]


def test_images_are_refused() -> None:
    evaluator = LikelihoodEvaluator(VariationalLikelihood(8))
    with pytest.raises(ValueError, match="of a model and its data"):
        evaluator.evaluate(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), None)  # type: ignore[arg-type]


def test_no_preset_is_what_the_rooms_are(tmp_path: Path) -> None:
    cfg = config(tmp_path, "experiment=none")
    assert (cfg.name, cfg.evaluation) == ("train", {})
    run_script(
        f"scripts/train.py experiment=none {' '.join(SMALL)} callbacks.checkpoint.every_n_train_steps=1 "
        f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "finished"
