"""``diffusion.results``: everything of every run as a pandas table."""

import json
import subprocess
import sys

import pytest
from run_folders import fingerprint, run_folder

import diffusion
from diffusion.errors import ReportError

FD = "fd_digits-cnn-v1_897"


def test_a_row_holds_the_whole_config_the_numbers_and_the_paths(tmp_path):
    scores = {"a": ({FD: 2.0}, fingerprint(steps=5)), "b": ({FD: 3.0}, fingerprint(split="test"))}
    run = run_folder(tmp_path / "one", seed=3, scores=scores)
    run_folder(tmp_path / "two", status="failed")
    frame = diffusion.results(tmp_path)
    assert list(frame["run"]) == ["one", "one", "two"]
    assert list(frame["status"]) == ["finished", "finished", "failed"]
    row = frame.iloc[0]
    assert row["run_folder"] == str(run)
    assert row["evaluation_folder"] == str(run / "evaluation" / "a")
    assert row["module._target_"] == "diffusion.training.module.diffusion.DiffusionModule"
    assert row["network.channel_mult"] == (1, 2)
    assert row["guidance.clip.low"] == -1.0
    assert row["data.seed"] == row["seed"] == 3
    assert row["paths.outputs"] == "outputs"
    assert row[FD] == 2.0
    assert row[f"real.{FD}"] == 1.5
    assert row["sampler.steps"] == 50, "the training's"
    assert row["fingerprint.samples.sampler.steps"] == 5, "the evaluation's"
    assert frame["protocol"][0] != frame["protocol"][1], "two references"
    assert frame["protocol"].isna()[2]
    assert frame.groupby("network.channel_mult")[FD].mean().tolist() == [2.5]


def test_protocols_are_equal_where_numbers_may_be_compared(tmp_path):
    for i in range(2):
        run_folder(
            tmp_path / f"r{i}", seed=i, scores={"e": ({FD: 2.0}, fingerprint(steps=5 + i, seed=i, torch=f"2.{i}"))}
        )
    assert len(set(diffusion.results(tmp_path)["protocol"])) == 1
    path = tmp_path / "r0" / "evaluation" / "e" / "metrics.json"
    record = json.loads(path.read_text())
    record["fingerprint"]["likelihood"] = {"class": "Flow", "rtol": 1e-5}
    path.write_text(json.dumps(record))
    frame = diffusion.results(tmp_path / "r0", tmp_path / "r1")
    assert len(set(frame["protocol"])) == 1, "a likelihood's settings are no other metric's"
    assert frame["protocol_likelihood"].notna().tolist() == [True, False]


def test_a_resumed_run_has_the_config_that_it_went_on_with(tmp_path):
    run = run_folder(tmp_path / "r")
    (run / "config-2.yaml").write_text((run / "config.yaml").read_text().replace("lr: 0.002", "lr: 0.5"))
    assert diffusion.results(tmp_path)["optimizer.lr"].tolist() == [0.5]


def test_what_cannot_be_read_is_a_warning_and_nothing_a_sentence(tmp_path):
    with pytest.raises(ReportError, match="is not a folder"):
        diffusion.results(tmp_path / "none")
    run_folder(tmp_path / "r")
    (run_folder(tmp_path / "cut") / "config.yaml").write_text("{")
    with pytest.warns(UserWarning, match="config.yaml is damaged"):
        assert len(diffusion.results(tmp_path)) == 1


def test_neither_torch_nor_pandas_is_loaded_before_it_is_needed(tmp_path):
    run_folder(tmp_path / "r", scores={"e": ({FD: 1.0}, fingerprint())})
    code = (
        "import sys, diffusion\n"
        "assert 'pandas' not in sys.modules\n"
        f"assert len(diffusion.results({str(tmp_path)!r})) == 1\n"
        "assert not {'torch', 'hydra', 'pytorch_lightning', 'wandb'} & set(sys.modules), 'too much was loaded'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
