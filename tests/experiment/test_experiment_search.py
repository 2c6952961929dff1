"""Search: the study is kept, a NaN does not end it, the same command adds what is missing, poor trials are pruned."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import warm
from conftest import config
from hydra.core.override_parser.overrides_parser import OverridesParser
from scripts_in_process import run_script
from test_experiment_launchers import ROOT, TINY
from toys import start, sweep, wait_for_cells

from diffusion.errors import ConfigError
from diffusion.experiment.run.status import read_status
from diffusion.experiment.sweep.measures import measures, refuse_unknown
from diffusion.experiment.sweep.search import distribution, pruner, result, sampler, storage
from diffusion.experiment.task import train

optuna = pytest.importorskip("optuna")

SEARCH = ["hydra/sweeper=search", "hydra.sweeper.metric=score", "hydra.sweeper.startup=4", "part.mode=good"]


@pytest.fixture
def hill(toy: Path) -> Path:
    """The score is the distance of ``scale`` from 0.3, and NaN above 0.8."""
    code = (toy / "toy.py").read_text()
    score = "{float('nan') if cfg.scale > 0.8 else abs(cfg.scale - 0.3)}"
    (toy / "toy.py").write_text(code.replace("{cfg.part.score}", score))
    return toy


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=storage(folder / "outputs" / "toy" / "study.journal"))


@pytest.mark.slow
def test_a_search_survives_nan_keeps_its_study_and_adds_what_is_missing(hill: Path):
    sweep(hill, *SEARCH, "hydra.sweeper.n_trials=8", "scale=interval(0.0,1.0)")
    first = study(hill).trials
    assert len(first) == 8
    states = {t.state.name for t in first}
    assert states == {"COMPLETE", "FAIL"}  # a fifth of the interval is NaN; the seed meets it
    assert all((t.params["scale"] > 0.8) == (t.state.name == "FAIL") for t in first)
    assert all(t.value == pytest.approx(abs(t.params["scale"] - 0.3)) for t in first if t.value is not None)
    sweep(hill, *SEARCH, "hydra.sweeper.n_trials=12", "scale=interval(0.0,1.0)")
    second = study(hill).trials
    assert [t.params for t in second[:8]] == [t.params for t in first]
    assert len({t.params["scale"] for t in second}) == 12  # a seeded sampler does not repeat itself
    err = sweep(hill, *SEARCH, "hydra.sweeper.n_trials=12", "scale=interval(0.0,1.0)")
    assert "12 trials, best first" in err
    assert len(study(hill).trials) == 12


def test_another_space_in_the_same_folder_is_refused(hill: Path):
    sweep(hill, *SEARCH, "hydra.sweeper.n_trials=1", "scale=0.1,0.2")
    assert "name=..." in sweep(hill, *SEARCH, "hydra.sweeper.n_trials=2", "seed=1,2", code=2)
    assert len(study(hill).trials) == 1


@pytest.mark.slow
def test_a_torn_study_goes_on_and_a_damaged_one_is_refused_and_kept(hill: Path):
    again = [*SEARCH, "hydra.sweeper.n_trials=2", "scale=interval(0.0,0.5)"]
    sweep(hill, *again)
    journal = hill / "outputs" / "toy" / "study.journal"
    journal.write_bytes(journal.read_bytes()[:-20])  # the last trial's end is lost, so that it is finished once more
    sweep(hill, *again)
    assert [t.state.name for t in study(hill).trials] == ["COMPLETE", "COMPLETE"]
    journal.write_text("no study\n")
    err = sweep(hill, *again, code=2)
    assert "study.journal is damaged" in err
    assert err.count("\n") == 1
    assert journal.read_text() == "no study\n"


def test_nothing_to_search_is_refused(hill: Path):
    assert "no override gives a choice" in sweep(hill, *SEARCH, "scale=0.2", code=2)


@pytest.mark.slow
def test_a_killed_search_finishes_the_trial_that_it_was_at(hill: Path):
    arguments = ["hydra/sweeper=search", "hydra.sweeper.metric=score", "hydra.sweeper.n_trials=1"]
    child = start(hill, *arguments, "part=sleep", "scale=interval(0.0,0.5)")
    (folder,) = wait_for_cells(hill, 1, child)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    params = study(hill).trials[0].params
    assert study(hill).trials[0].state.name == "RUNNING"
    code = (hill / "toy.py").read_text()
    (hill / "toy.py").write_text(code.replace("time.sleep(60)", "pass").replace(".mkdir()", ".mkdir(exist_ok=True)"))
    sweep(hill, *arguments, "part=sleep", "scale=interval(0.0,0.5)")
    (trial,) = study(hill).trials
    assert trial.state.name == "COMPLETE"
    assert trial.params == params
    assert (folder / "ran.txt").read_text().splitlines()[1].endswith(folder.name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=interval(0.5,2)", {"low": 0.5, "high": 2.0, "log": False}),
        ("a=tag(log,interval(1e-5,1e-2))", {"low": 1e-5, "high": 1e-2, "log": True}),
        ("a=int(interval(1,8))", {"low": 1, "high": 8}),
        ("a=x,y", {"choices": ("x", "y")}),
        ("a=choice(1,2)", {"choices": ("1", "2")}),
        ("a=range(1,4)", {"choices": ("1", "2", "3")}),
    ],
)
def test_sweeps_become_distributions(text: str, expected: dict):
    found = distribution(OverridesParser.create().parse_override(text))
    assert {key: getattr(found, key) for key in expected} == expected


def test_names_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="tpe, random or cmaes"):
        sampler("tep", 0, 1)
    with pytest.raises(ConfigError, match="none, median or halving"):
        pruner("mean")


def test_a_runs_number(tmp_path: Path):
    assert result(tmp_path, "fd") is None
    (tmp_path / "metrics.csv").write_text("step,val/loss,x\n1,0.5,\n2,0.25,7\n3,,8\n")
    assert result(tmp_path, "val/loss") == 0.25
    assert result(tmp_path, "fd") is None
    (tmp_path / "evaluation" / "e").mkdir(parents=True)
    metrics = {"fd_std_digits_897": 9.0, "fd_digits_897": 1.5, "fdx": 3.0}
    (tmp_path / "evaluation" / "e" / "metrics.json").write_text(json.dumps({"metrics": metrics}))
    assert result(tmp_path, "fd") == 1.5
    (tmp_path / "evaluation" / "e" / "metrics.json").write_text('{"metr')
    assert result(tmp_path, "fd") is None


def recorded(tmp_path: Path, *overrides: str) -> Path:
    """The run folder of a training of two steps."""
    cfg = config(tmp_path / "run", *QUICK, *overrides)
    train.train(cfg)
    return tmp_path / "run"


QUICK = ["logger=csv", "network.channels=8", "~callbacks.samples", "~callbacks.progress", "trainer.max_steps=2"]
QUICK += ["trainer.log_every_n_steps=2", "trainer.val_check_interval=2", "sampler=ddim", "sampler.steps=2"]
QUICK += ["schedule.T=20"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["evaluation=digits", "evaluation.num_samples=20", "evaluation.metrics=[fd,is,kid,memorisation]"],
        ["evaluation=likelihood", "evaluation.likelihood.num_samples=4", "objective=vlb", "objective.variance=small"],
    ],
)
def test_what_a_run_has_measured_is_told_from_its_config(tmp_path: Path, overrides: list[str]):
    """Each name that is told is found in a run, and each number of a run is told."""
    folder = recorded(tmp_path, *overrides)
    told = measures(config(folder, *QUICK, *overrides))
    assert not told.unknown
    for name in told.scores | told.columns:
        if "_t/" not in name and "fd_class" not in name:
            assert result(folder, name) is not None, name
    columns = set((folder / "metrics.csv").read_text().splitlines()[0].split(",")) - {"step"}
    assert {name for name in columns if not name.startswith("evaluation/")} <= told.columns
    (record,) = folder.glob("evaluation/*/metrics.json")
    for name in json.loads(record.read_text())["metrics"]:
        assert told.refuse("metric", name) is None
        assert told.refuse("metric", f"evaluation/{name}") is None


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        (
            ["hydra.sweeper.metric=fdd", "evaluation=digits"],
            "metric=fdd is.*mean hydra.sweeper.metric=fd?",
        ),
        (["hydra.sweeper.metric=val/los"], "did you mean hydra.sweeper.metric=val/loss?"),
        (
            ["hydra.sweeper.metric=fd", "evaluation=none"],
            "metric=fd is measured by no run.*; set it to one",
        ),
        (["hydra.sweeper.metric=kid", "evaluation.metrics=[fd,is]"], "metric=kid is measured by no run"),
        (
            ["hydra.sweeper.metric=val/loss", "hydra.sweeper.pruner=median", "hydra.sweeper.report=val/lss"],
            "did you mean hydra.sweeper.report=val/loss?",
        ),
    ],
)
def test_a_metric_that_no_trial_has_is_refused_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture, chosen: list[str], sentence: str
):
    with pytest.raises(pytest.fail.Exception):
        run_script(search_of(tmp_path, *chosen))
    assert re.search(sentence.replace("?", r"\?"), capsys.readouterr().err)
    assert not list(tmp_path.glob("s/*/config.yaml"))


def search_of(tmp_path: Path, *chosen: str) -> str:
    line = ["scripts/train.py", "-m", "hydra/sweeper=search", f"paths.outputs={tmp_path}", "name=s", *QUICK, *chosen]
    return " ".join([*line, "optimizer.lr='tag(log,interval(1e-4,1e-2))'", "hydra.sweeper.n_trials=1"])


def test_a_choice_of_evaluations_may_have_the_metric_in_one(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """None of the three is refused: one evaluation has it; an own callback may; a likelihood gives its own."""

    def refuse_in(fixed: list[str], *rest: Any) -> None:
        refuse_unknown(lambda lines: config(tmp_path, *lines), fixed, *rest)

    refuse_in(QUICK, {"evaluation": ["none", "digits"]}, "fd", None)
    refuse_in(["+callbacks.mine={_target_:a.Mine}"], {"seed": [0]}, "mine/number", None)
    assert "callbacks.mine may measure it" in caplog.text
    for name in ("bits_per_dim", "bits_per_dim_variational", "bits_per_dim_variational_897"):
        refuse_in(["evaluation=likelihood"], {"seed": [0]}, name, "train/mse")
    with pytest.raises(ConfigError, match=r"report=train/msee .* did you mean hydra\.sweeper\.report=train/mse"):
        refuse_in([], {"seed": [0]}, "val/loss", "train/msee")


@pytest.mark.slow
def test_a_poor_training_is_pruned_and_counts_as_finished(tmp_path: Path):
    journal = tmp_path / "study.journal"
    known = optuna.create_study(storage=storage(journal), study_name="search", pruner=pruner("median"))
    for _ in range(4):  # four that did well
        trial = known.ask()
        trial.report(1e-3, 2)
        known.tell(trial, 1e-3)
    mine = known.ask()
    node = f"{{_target_: diffusion.experiment.sweep.pruning.Pruning, journal: '{journal}', trial: {mine._trial_id}}}"
    arguments = [a for a in TINY if not a.startswith(("callbacks=", "trainer.val_check", "trainer.max_steps"))]
    arguments += ["callbacks=[checkpoint,monitor,progress]", "trainer.max_steps=2000", "trainer.val_check_interval=2"]
    run = tmp_path / "run"
    command = [sys.executable, "scripts/train.py", *arguments, f"hydra.run.dir={run}", f"++callbacks.pruning={node}"]
    begin = time.monotonic()
    done = warm.run(command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    status = read_status(run)
    assert (status["status"], status["pruned"]) == ("finished", True)
    assert "val/loss" in status["reason"]
    assert study_values(journal, mine.number) == [2]
    assert time.monotonic() - begin < 120


def study_values(journal: Path, number: int) -> list[int]:
    known = optuna.load_study(study_name="search", storage=storage(journal))
    return list(known.trials[number].intermediate_values)


@pytest.mark.slow
def test_a_whole_search_prunes_survives_a_divergence_and_adds_to_its_study(tmp_path: Path):
    """Four good trainings, one that hardly learns, one that diverges; then the same command with one more."""
    folder = tmp_path / "s"
    folder.mkdir()
    known = optuna.create_study(storage=storage(folder / "study.journal"), study_name="search")
    for rate in (4e-3, 3e-3, 2e-3, 5e-3, 1e-9, 1e30):
        known.enqueue_trial({"optimizer.lr": rate})
    arguments = [a for a in TINY if not a.startswith(("callbacks=", "trainer.val_check", "evaluation", "trainer.max"))]
    arguments += ["callbacks=[checkpoint,monitor,progress]", "trainer.max_steps=6", "trainer.val_check_interval=2"]
    arguments += ["evaluation=none", "lr_scheduler.warmup=1", "hydra/sweeper=search", "hydra.sweeper.metric=val/loss"]
    arguments += ["hydra.sweeper.pruner=median", f"paths.outputs={tmp_path}", "name=s"]
    command = [sys.executable, "scripts/train.py", "-m", *arguments, "optimizer.lr=tag(log,interval(1e-9,1e30))"]
    for trials in (6, 7):
        done = warm.run([*command, f"hydra.sweeper.n_trials={trials}"], cwd=ROOT)
        assert done.returncode == 0, done.stderr
        found = optuna.load_study(study_name="search", storage=storage(folder / "study.journal")).trials
        assert [t.state.name for t in found[:6]] == ["COMPLETE"] * 4 + ["PRUNED", "FAIL"], done.stderr
        assert len(found) == trials
    assert list(found[0].intermediate_values) == [2, 4]
    assert list(found[4].intermediate_values) == [2]
    assert "has diverged" in found[5].user_attrs["why"]
    states = [
        (status["status"], status.get("pruned", False)) for status in map(read_status, folder.glob("*/")) if status
    ]
    assert states.count(("finished", True)) >= 1
    assert states.count(("finished", False)) >= 4
