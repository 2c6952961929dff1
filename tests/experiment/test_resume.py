"""A resumed run: what may change is applied and recorded, what may not is refused without touching the folder."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import warm
import yaml
from script_results import ROOT, attempt, snapshot

from diffusion.experiment.run.history import read_history, write_history
from diffusion.experiment.run.may_change import MAY_CHANGE, STAY
from diffusion.experiment.run.saved_config import read_resolved

SMALL = (
    "evaluation=none", "logger=csv", "callbacks.samples.num_samples=4", "sampler.steps=2", "network.channels=8",
    "optimizer.lr=1e-3", "lr_scheduler=constant", "lr_scheduler.warmup=0", "trainer.max_steps=5",
)  # fmt: skip


def train(*words: str) -> tuple[int, str]:
    return attempt("train", *words)


def run_of(outputs: Path, name: str = "x") -> Path:
    (run,) = (found for found in (outputs / name).iterdir() if found.is_dir())
    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("made")
    code, shown = train("name=x", f"paths.outputs={outputs}", *SMALL)
    assert code == 0, shown
    return run_of(outputs)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "a run (ü)")


def resume(run: Path, *words: str) -> tuple[int, str]:
    return train(*words, f"resume='{run}'")


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.batch_size=32"], "was trained with data.batch_size=64, and this would continue it with 32"),
        (["seed=1"], "was trained with seed=0"),
        (["network.channels=16"], "was trained with network.channels=8"),
        (["schedule=linear"], "was trained with schedule"),
        (["parameterization=x0"], "was trained with parameterization"),
        (["objective=vlb"], "was trained with objective"),
        (["conditioner=label"], "was trained with conditioner"),
        (["ema=constant"], "was trained with ema"),
        (["optimizer=adamw"], "was trained with optimizer._target_"),
        (["+trainer.limit_train_batches=3"], "was trained with trainer.limit_train_batches"),
        (["name=y"], "was trained with name=x"),
        (["experiment=fashion_cfg"], "chooses those of a new one"),
        (["trainer.max_steps=2"], "has trained 5 steps, and trainer.max_steps=2 is less"),
        (["optimizer.lrr=1"], "did you mean 'optimizer.lr'"),
        (["trainer=nowhere"], "trainer has no option 'nowhere'"),
        (["optimizer.lr=fast"], "optimizer.lr"),
        (["-m", "optimizer.lr=1e-3,1e-4"], "resume= continues one run, and -m makes several"),
    ],
)
def test_what_may_not_change_is_refused_and_changes_no_byte(run: Path, words: list[str], sentence: str):
    before = snapshot(run.parent)
    code, shown = resume(run, *words)
    assert code == 2, shown
    assert sentence in shown, shown
    assert "Traceback" not in shown
    assert snapshot(run.parent) == before


@pytest.mark.parametrize("value", ["", "''"])
def test_an_empty_resume_is_refused_before_anything_is_made(tmp_path: Path, value: str):
    code, shown = train(f"resume={value}", "name=x", f"paths.outputs={tmp_path}")
    assert code == 2
    assert "resume= is empty" in shown
    assert not list(tmp_path.iterdir())


def test_a_run_that_another_process_writes_is_left_to_it(run: Path):
    import psutil

    other = psutil.Process(os.getppid())
    status = json.loads((run / "status.json").read_text())
    living = {"status": "running", "pid": other.pid, "born": other.create_time()}
    (run / "status.json").write_text(json.dumps(status | living))
    before = snapshot(run)
    code, shown = resume(run, "trainer.max_steps=8")
    assert code == 2
    assert f"is being written by process {other.pid}" in shown
    assert snapshot(run) == before


@pytest.mark.slow
def test_data_that_changed_on_the_disk_are_refused_and_change_no_byte(tmp_path: Path):
    from PIL import Image

    for number in range(12):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / "data" / f"{number}.png")
    folder = ["data=image_folder", f"data.root={tmp_path / 'data'}", "data.resolution=8", "data.batch_size=4"]
    code, shown = train("name=x", f"paths.outputs={tmp_path / 'out'}", *SMALL, *folder)
    assert code == 0, shown
    run = run_of(tmp_path / "out")
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "one_more.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "two_more.png")
    before = snapshot(run)
    code, shown = resume(run, "trainer.max_steps=8")
    assert code == 2, shown
    assert "the data are not those of the checkpoint: 9 training images then and 11 now" in shown
    assert snapshot(run) == before


@pytest.mark.slow
def test_a_learning_rate_of_zero_moves_no_weight(run: Path):
    before = checkpoint(run)
    code, shown = resume(run, "trainer.max_steps=8", "optimizer.lr=0.0")
    assert code == 0, shown
    after = checkpoint(run)
    assert (before["global_step"], after["global_step"]) == (5, 8)
    trained = [name for name in before["state_dict"] if name.startswith("model.")]
    assert trained
    for name in trained:
        assert torch.equal(before["state_dict"][name], after["state_dict"][name]), name
    assert "from step 5: optimizer.lr 0.001 -> 0.0" in shown


@pytest.mark.slow
def test_changed_settings_are_used_and_recorded(run: Path):
    started = snapshot(run)
    code, shown = resume(run, "trainer.max_steps=8", "optimizer.lr=1e-5", "optimizer.betas=[0.5,0.9]")
    assert code == 0, shown
    (group,) = checkpoint(run)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], tuple(group["betas"])) == (1e-5, (0.5, 0.9))
    assert read_history(run) == [
        {
            "from_step": 5,
            "changes": {
                "optimizer.lr": [1e-3, 1e-5],
                "optimizer.betas": [[0.9, 0.999], [0.5, 0.9]],
                "trainer.max_steps": [5, 8],
            },
        }
    ]
    assert (run / "config.yaml").read_bytes() == started["config.yaml"]
    assert read_resolved(run).optimizer.lr == 1e-5
    code, shown = resume(run, "trainer.max_steps=9")  # once more, with nothing else said: the change holds
    assert code == 0, shown
    assert checkpoint(run)["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-5
    assert [entry["from_step"] for entry in read_history(run)] == [5, 8]


@pytest.mark.slow
def test_a_longer_cosine_goes_on_along_the_longer_curve(run: Path):
    code, shown = resume(run, "trainer.max_steps=10", "lr_scheduler=cosine")
    assert code == 0, shown
    assert "from step 5: lr_scheduler.total" in shown
    code, shown = resume(run, "trainer.max_steps=20")
    assert code == 0, shown
    assert "from step 10: lr_scheduler.total 10 -> 20 (it follows trainer.max_steps)" in shown
    rows = (run / "metrics.csv").read_text()
    assert rows
    state = checkpoint(run)["lr_schedulers"][0]
    assert state["last_epoch"] == 20
    assert state["_last_lr"] == pytest.approx([1e-3 * 0.5 * (1 + math.cos(math.pi * 20 / 20))], abs=1e-12)


@pytest.mark.slow
def test_the_first_step_after_a_change_takes_the_new_rate(run: Path):
    """Adam's own update, worked out here from the checkpoint's moments, at the new rate."""
    before = checkpoint(run)
    code, shown = resume(run, "trainer.max_steps=6", "optimizer.lr=0.25")
    assert code == 0, shown
    after = checkpoint(run)
    state = after["optimizer_states"][0]["state"][0]
    step, m, v = int(state["step"]), state["exp_avg"], state["exp_avg_sq"]
    assert step == 6
    update = 0.25 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    names = [n for n in before["state_dict"] if n.startswith("model.") and before["state_dict"][n].shape == m.shape]
    moved = [n for n in names if torch.allclose(before["state_dict"][n] - update, after["state_dict"][n], atol=1e-6)]
    assert moved


@pytest.mark.slow
def test_edited_config_files_change_no_resumed_run(tmp_path: Path):
    conf = shutil.copytree(ROOT / "conf", tmp_path / "conf")
    own = [f"--config-path={conf}"]
    code, shown = train(*own, "name=x", f"paths.outputs={tmp_path / 'out'}", *SMALL)
    assert code == 0, shown
    run = run_of(tmp_path / "out")
    for name in ("experiment/digits_ddpm", "ema/warmup", "data/digits", "sampler/ancestral"):
        text = (conf / f"{name}.yaml").read_text()
        (conf / f"{name}.yaml").write_text(
            re.sub(r"(?m)^( *(?:batch_size|seed|eta|beta_max|power): ).*$", r"\g<1>1", text)
        )
    (conf / "experiment" / "digits_ddpm.yaml").write_text("# @package _global_\nseed: 7\n")
    code, shown = resume(run, *own)
    assert code == 0, shown
    assert not (run / "config-2.yaml").exists()
    assert not read_history(run)
    assert json.loads((run / "status.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_continued_cell_is_another_run_and_the_sweep_trains_the_cell_again(tmp_path: Path):
    sweep = ["-m", "name=x", f"paths.outputs={tmp_path}", *SMALL]
    assert train(*sweep)[0] == 0
    cell = run_of(tmp_path)
    code, shown = train(*sweep)
    assert code == 0
    assert "skipped" in shown
    assert resume(cell, "trainer.max_steps=9")[0] == 0
    continued = snapshot(cell)
    code, shown = train(*sweep)
    assert code == 0
    assert "skipped" not in shown
    assert snapshot(cell) == continued
    steps = {run.name: checkpoint(run)["global_step"] for run in (tmp_path / "x").iterdir() if run.is_dir()}
    assert steps == {cell.name: 9, f"{cell.name}-2": 5}
    assert "skipped" in train(*sweep)[1]


@pytest.mark.slow
def test_more_steps_alone_make_the_cell_of_more_steps(tmp_path: Path, made: Path, run: Path):
    """The rate is constant, so the weights are those of one training of eight steps, and so is the identity."""
    assert resume(run, "trainer.max_steps=8")[0] == 0
    whole = [*(word for word in SMALL if "max_steps" not in word), "trainer.max_steps=8"]
    assert train("name=x", f"paths.outputs={tmp_path / 'whole'}", *whole)[0] == 0
    other = run_of(tmp_path / "whole")
    one, two = checkpoint(run)["state_dict"], checkpoint(other)["state_dict"]
    assert all(torch.equal(one[name], two[name]) for name in one)
    identities = [json.loads((folder / "status.json").read_text())["identity"] for folder in (made, run, other)]
    assert identities[0] != identities[1] == identities[2]


@pytest.mark.slow
def test_another_rate_on_the_way_is_no_run_of_that_rate(tmp_path: Path, run: Path):
    assert resume(run, "trainer.max_steps=8", "optimizer.lr=1e-4")[0] == 0
    whole = [*SMALL, "trainer.max_steps=8", "optimizer.lr=1e-4"]
    assert train("name=x", f"paths.outputs={tmp_path / 'whole'}", *whole)[0] == 0
    other = run_of(tmp_path / "whole")
    one, two = (json.loads((folder / "status.json").read_text())["identity"] for folder in (run, other))
    assert one != two


def test_a_history_holds_what_reached_the_weights(tmp_path: Path):
    def entry(step: int, **changes: list[Any]) -> dict[str, Any]:
        return {"from_step": step, "changes": changes}

    def history(past: list[dict[str, Any]], step: int, **changes: tuple[Any, Any]) -> list[dict[str, Any]]:
        (tmp_path / "history.json").write_text(json.dumps(past))
        write_history(tmp_path, step, changes)
        return read_history(tmp_path)

    assert history([], 5, a=(1, 2)) == [entry(5, a=[1, 2])]
    assert history([entry(5, a=[1, 2])], 9, a=(2, 3)) == [entry(5, a=[1, 2]), entry(9, a=[2, 3])]
    # the segment from step 5 was killed before its first save: it left no trace in the weights
    assert history([entry(5, a=[1, 2])], 5, a=(2, 3)) == [entry(5, a=[1, 3])]
    assert history([entry(5, a=[1, 2])], 5, a=(2, 1)) == []
    assert history([entry(3, b=[0, 1]), entry(9, a=[1, 2])], 5) == [entry(3, b=[0, 1]), entry(5, a=[1, 2])]


def test_the_table_of_the_docs_is_the_one_of_the_code():
    rows = re.findall(r"(?m)^\| `([\w.]+)` \| (.+) \|$", (ROOT / "docs" / "resume.md").read_text(encoding="utf-8"))
    assert dict(rows) == dict(MAY_CHANGE)


def test_every_setting_that_may_change_exists():
    train_keys = yaml.safe_load((ROOT / "conf" / "train.yaml").read_text())
    groups = {name for line in train_keys["defaults"] if isinstance(line, dict) for name in line}
    known = groups | set(train_keys) | {"text_encoder"}  # which conditioner=text brings
    keys = {key for file in (ROOT / "conf").rglob("*.yaml") for key in yaml.safe_load(file.read_text()) or {}}
    for key in (*MAY_CHANGE, *STAY):
        head, *_, leaf = key.split(".") if "." in key else (key, "")
        assert head in known, key
        assert not leaf or leaf in keys or leaf in ("_target_", "limit_train_batches", "overfit_batches"), key


@pytest.mark.slow
def test_two_ranks_continue_what_one_began_and_a_refusal_on_ranks_changes_no_byte(run: Path, tmp_path: Path):
    ranks = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    before = snapshot(run)
    for words, code in ((["optimizer.lr=1e-4"], 0), (["data.batch_size=63"], 2)):
        folder = shutil.copytree(run, tmp_path / f"code {code}")
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"resume='{folder}'", "trainer.max_steps=8"]
        done = warm.run([*command, *ranks, *words])
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if code:
            assert snapshot(folder) == before
        else:
            (entry,) = read_history(folder)
            assert entry["changes"]["optimizer.lr"] == [1e-3, 1e-4]
            assert entry["changes"]["trainer.devices"] == [1, 2]
            assert checkpoint(folder)["global_step"] == 8
            status = json.loads((folder / "status.json").read_text())
            assert status["status"] == "finished"
            assert "from step 5: optimizer.lr 0.001 -> 0.0001" in (folder / "train.log").read_text()
