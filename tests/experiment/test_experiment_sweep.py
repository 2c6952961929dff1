"""Sweeps: nothing that is finished runs again, nothing that fails stops the rest."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from toys import runs, start, sweep, wait_for_cells

from diffusion.experiment.config import resolvers
from diffusion.experiment.config.config_hash import MACHINE, identity
from diffusion.experiment.run.status import read_status
from diffusion.experiment.sweep.run import job


@pytest.mark.slow
def test_the_same_command_again_runs_nothing(toy: Path):
    err = sweep(toy, "seed=1,2", "part=good,fine")
    assert "4 finished" in err
    assert "4 skipped" in sweep(toy, "seed=1,2", "part=good,fine")
    assert list(runs(toy).values()) == [1] * 4
    assert "4 skipped, 2 finished" in sweep(toy, "seed=1,2,3", "part=good,fine")
    assert list(runs(toy).values()) == [1] * 6
    for folder in runs(toy):  # what was laid out is what ran
        assert identity(OmegaConf.load(toy / "outputs" / "toy" / folder / "config.yaml")) == folder
    assert not (toy / "multirun").exists()


def test_what_a_job_sets_of_the_guidance_of_a_run_reaches_it(tmp_path: Path):
    """``scripts/evaluate.py -m run=<run> guidance.classifier_free.scale=1,2``: the rest is the run's."""
    given = {"run": "a", "paths": {"run": str(tmp_path)}, "guidance": {"classifier_free": {"scale": 1.0}}}
    assert job(OmegaConf.to_container, OmegaConf.create(given)) == given


@pytest.mark.slow
def test_an_edited_config_file_makes_new_cells(toy: Path):
    sweep(toy, "seed=1,2")
    (toy / "conf" / "part" / "good.yaml").write_text("mode: good\nscore: 2.5\n")
    assert "2 finished" in sweep(toy, "seed=1,2")
    assert len(runs(toy)) == 4


@pytest.mark.slow
def test_a_file_that_is_edited_while_the_sweep_runs_changes_no_cell(toy: Path):
    sweep(toy, "part=edit,good")
    assert {p.read_text() for p in (toy / "outputs" / "toy").glob("*/metrics.csv")} == {"step,score\n1,1.5\n"}
    (toy / "conf" / "part" / "good.yaml").write_text("mode: good\nscore: 1.5\n")
    err = sweep(toy, "part=edit,good", "name=other", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", code=1)
    assert "1 finished, 1 failed" in err  # another process composes anew, and says so
    assert "was edited while the sweep ran" in err


def test_what_failed_runs_again_and_the_others_go_on(toy: Path):
    err = sweep(toy, "part=fail,good,exit", code=1)
    assert "2 failed, 1 finished" in err
    assert "ValueError: a bad part" in err
    failed = [f for f in (toy / "outputs" / "toy").iterdir() if (f / "traceback.txt").exists()]
    assert len(failed) == 2
    assert any("ValueError: a bad part" in (f / "toy.log").read_text() for f in failed)
    (toy / "outputs" / "mended").touch()
    assert "2 finished, 1 failed" not in sweep(toy, "part=fail,good,exit", code=1)
    assert sorted(runs(toy).values()) == [1, 2, 2]


def test_failed_cells_can_be_left_alone(toy: Path):
    sweep(toy, "part=fail,good", code=1)
    sweep(toy, "part=fail,good", "hydra.sweeper.retry=false", code=1)
    assert list(runs(toy).values()) == [1, 1]


def test_identical_cells_run_once_and_are_pointed_out(toy: Path):
    err = sweep(toy, "scale=1.0,2.0,1.00")
    assert "same as scale=1.0" in err
    assert list(runs(toy).values()) == [1, 1]


def test_a_key_that_the_experiment_pins_is_refused(toy: Path):
    err = sweep(toy, "experiment=pin", "part=good,fine", code=2)
    assert "part=good,fine makes identical jobs" in err
    assert err.count("\n") == 1
    assert not (toy / "outputs").exists()


def test_sweeping_where_things_lie_is_refused(toy: Path):
    assert "not what it computes" in sweep(toy, "paths.outputs=a,b", code=2)


@pytest.mark.parametrize("text", ['{"swept": ["se', "[]", '{"cells": {}}'])
def test_a_half_written_or_foreign_list_of_cells_is_refused_and_kept(toy: Path, text: str):
    (toy / "outputs" / "toy").mkdir(parents=True)
    (toy / "outputs" / "toy" / "sweep.json").write_text(text)
    err = sweep(toy, "seed=1,2", code=2)
    assert "sweep.json is half-written or of another version; remove it" in err
    assert err.count("\n") == 1
    assert (toy / "outputs" / "toy" / "sweep.json").read_text() == text


def test_a_half_written_status_is_a_cell_to_run(toy: Path):
    sweep(toy, "seed=1,2")
    (cell, _) = runs(toy)
    (toy / "outputs" / "toy" / cell / "status.json").write_text('{"status": "fin')
    assert "1 finished, 1 skipped" in sweep(toy, "seed=1,2").replace("1 skipped, 1 finished", "1 finished, 1 skipped")
    assert sorted(runs(toy).values()) == [1, 2]


@pytest.mark.slow
def test_a_folder_of_another_sweep_is_refused_and_kept(toy: Path):
    sweep(toy, "seed=1,2")
    before = (toy / "outputs" / "toy" / "sweep.json").read_bytes()
    assert "holds another sweep (over seed" in sweep(toy, "scale=1,2", code=2)
    assert "holds another sweep" in sweep(toy, "seed=1,2", "scale=3", code=2)
    assert (toy / "outputs" / "toy" / "sweep.json").read_bytes() == before
    sweep(toy, "scale=1,2", "name=other")
    assert len(runs(toy)) == len(runs(toy, "other")) == 2


@pytest.mark.parametrize(
    ("arguments", "change"),
    [
        (["seed=1,2", "part=god,fine"], "nearest first: good"),
        (["seeed=1,2"], "did you mean 'seed'?"),
        (["seed=1,2", "part.scor=1,2"], "did you mean 'part.score'?"),
        (["seed=interval(0,1)"], "hydra/sweeper=search"),
    ],
)
def test_mistakes_are_found_before_anything_runs(toy: Path, arguments: list[str], change: str):
    assert change in sweep(toy, *arguments, code=2)
    assert not (toy / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]], ids=["basic", "joblib"]
)
def test_sigterm_stops_the_sweep_and_the_same_command_continues_it(toy: Path, launcher: list[str]):
    child = start(toy, "part=sleep,good", *launcher)
    (folder,) = wait_for_cells(toy, 1, child)
    time.sleep(0.3)
    child.terminate()
    _, err = child.communicate(timeout=30)
    assert child.returncode == 143, err
    assert read_status(folder)["status"] == "preempted"
    assert "1 preempted, 1 waiting" in err
    again = start(toy, "part=sleep,good")
    wait_for_cells(toy, 1, again)
    deadline = time.monotonic() + 30
    while (lines := (folder / "ran.txt").read_text().splitlines()) and len(lines) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again.kill()
    again.communicate()
    assert lines[0].endswith("None")
    assert lines[1].endswith(folder.name)  # it was told to resume


@pytest.mark.slow
def test_a_cell_that_another_process_is_at_is_waited_for(toy: Path):
    first = start(toy, "part=sleep", "name=toy")
    (folder,) = wait_for_cells(toy, 1, first)
    second = start(toy, "part=sleep", "name=toy")
    time.sleep(3)
    assert second.poll() is None
    assert len((folder / "ran.txt").read_text().splitlines()) == 1
    first.kill()
    first.communicate()
    deadline = time.monotonic() + 30
    while len((folder / "ran.txt").read_text().splitlines()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second.kill()
    second.communicate()


NOTHING = '''
"""Nothing."""
from pathlib import Path
from diffusion.experiment.cli.app import app
from diffusion.experiment.run.record import Record

@app("train")
def main(cfg):
    with Record(Path(cfg.paths.run), cfg):
        pass

if __name__ == "__main__":
    main()
'''


PLAIN = """
import sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from diffusion.experiment.cli.app import CONF
from diffusion.experiment.config import resolvers
resolvers.register()
with initialize_config_dir(str(CONF), version_base="1.3"):
    for seed in range(int(sys.argv[1])):
        OmegaConf.to_yaml(compose("train", [f"seed={seed}", "paths.run=x"]), resolve=True)
"""


@pytest.mark.slow
def test_a_cell_that_does_nothing_costs_little(tmp_path: Path):
    """With the whole config of a training: laid out, checked, run and recorded for less processor time than three times
    what Hydra takes to compose and print it, each less what starting the process costs."""

    def work(function: Callable[[int], object], cells: int) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        function(cells)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def cells(n: int) -> None:
        sweep(tmp_path, f"seed=range({n})", f"name=cells{n}")

    def composed(n: int) -> None:
        subprocess.run([sys.executable, "-c", PLAIN, str(n)], check=True)

    (tmp_path / "toy.py").write_text(NOTHING)
    assert work(cells, 21) - work(cells, 1) < 3 * (work(composed, 21) - work(composed, 1))


@pytest.mark.parametrize("name", ["2406303653e9", "012345678901", "0123456789ab"])
def test_a_cell_whose_name_looks_like_a_number_runs_in_its_folder(toy: Path, name: str) -> None:
    named = f"import diffusion.experiment.sweep.{{0}} as room\nroom.identity = lambda cfg: {name!r}\n"
    script = (toy / "toy.py").read_text()
    (toy / "toy.py").write_text(named.format("plan") + named.format("run") + script)
    assert "1 finished" in sweep(toy, "part=good")
    assert runs(toy) == {name: 1}


def test_identity_depends_on_what_is_computed_and_on_nothing_else():
    base = {"seed": 0, "paths": {"outputs": "a"}, "data": {"root": "${paths.outputs}/x", "num_workers": 0}, "tags": []}
    one = identity(OmegaConf.create(base))
    assert one == identity(OmegaConf.create(base | {"tags": ["x"], "paths": {"outputs": "b"}, "name": "n"}))
    assert one == identity(OmegaConf.create(base | {"keep_freed_memory": False}))
    assert one == identity(OmegaConf.create(dict(reversed(base.items()))))
    assert one != identity(OmegaConf.create(base | {"seed": 1}))
    guidance = {
        "guidance": {"apg": {"_target_": "a", "x": 1, "y": 2}, "free": {"_target_": "b", "scale": {"p": 1, "q": 2}}}
    }
    ordered = identity(OmegaConf.create(base | guidance))
    guidance["guidance"]["apg"] = dict(reversed(guidance["guidance"]["apg"].items()))
    assert ordered == identity(OmegaConf.create(base | guidance)), "arguments have no order"
    other = {"guidance": dict(reversed(guidance["guidance"].items()))}
    assert ordered != identity(OmegaConf.create(base | other)), "the innermost guidance is the first"
    guidance["guidance"]["free"]["scale"] = {"q": 2, "p": 1}
    assert ordered != identity(OmegaConf.create(base | guidance)), "parts are removed in their order"
    assert one != identity(OmegaConf.create(base | {"data": {"root": "elsewhere", "num_workers": 0}}))
    OmegaConf.register_new_resolver("precision", lambda: "32-true", replace=True)
    auto, here = ({"trainer": {"precision": text}} for text in ("${precision:}", "32-true"))
    known = identity(OmegaConf.create(base | auto))
    assert known != identity(OmegaConf.create(base | here))
    OmegaConf.register_new_resolver("precision", lambda: "bf16-mixed", replace=True)
    assert known == identity(OmegaConf.create(base | auto)), "a sweep that is laid out on another machine is the same"
    resolvers.register()
    assert re.fullmatch("[0-9a-f]{12}", one)
    assert "trainer.devices" in MACHINE
