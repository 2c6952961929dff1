"""debug=profile: seconds go to the part that spent them, and a run says where its time went."""

import gzip
import json
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import config

from diffusion.experiment.task.train import run
from diffusion.training.callbacks import profile
from diffusion.training.callbacks.profile import PARTS, REST, Profile, Timer


def test_seconds_go_to_the_innermost_part(monkeypatch):
    """10 s: 1 of data, 5 in the optimizer of which 2 forward and 1 averaging, 3 in a callback, 1 in no part."""
    clock = iter([0, 0, 1, 1, 2, 4, 5, 6, 6, 6, 9, 10])
    monkeypatch.setattr(profile, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    timer = Timer(torch.device("cpu"))
    timer.stop("[Callback]it began in this one")
    timer.begin()
    with timer.profile("[_TrainingEpochLoop].train_dataloader_next"):
        pass
    with timer.profile("[LightningModule]DiffusionModule.optimizer_step"):
        with timer.profile("[Strategy]SingleDeviceStrategy.training_step"):
            pass
        with timer.profile(profile.AVERAGING):
            pass
    with timer.profile("[Callback]Monitor.on_before_optimizer_step"):
        pass
    timer.end()
    parts = {part: seconds for part, seconds in timer.parts().items() if seconds}
    assert parts == {
        "data": 1,
        "forward, with noise and loss": 2,
        "average of the weights": 1,
        "optimizer": 2,
        "callbacks": 3,
        REST: 1,
    }
    assert timer.wall == 10


def test_a_profiled_run_says_where_its_time_went(tmp_path, capsys):
    small = ["logger=csv", "network.channels=8", "callbacks.profile.steps=2", "callbacks.profile.warmup=1"]
    run(config(tmp_path, "debug=profile", *small, "callbacks.profile.traced=1"))
    text = (tmp_path / "profile.txt").read_text()
    assert text in capsys.readouterr().out
    rows = dict(re.findall(r"^│ (.+?) +│ +([\d.]+) │ +[\d.]+% │$", text, re.M))
    assert list(rows) == [*dict.fromkeys(PARTS.values()), REST, "all"]
    whole = float(rows.pop("all"))
    assert sum(map(float, rows.values())) == pytest.approx(whole, abs=0.01)
    assert all(float(rows[part]) > 0 for part in rows)
    assert re.search(r"[\d.]+ GFLOP a step, [\d.]+ TFLOP/s: [\d.]+% of the [\d.]+ TFLOP/s", text)
    assert "aten::convolution_backward" in text
    with gzip.open(tmp_path / "trace.json.gz") as file:
        assert json.load(file)["traceEvents"]


def test_a_training_shorter_than_its_profile_says_so(tmp_path, caplog):
    run(config(tmp_path, "debug=profile", "logger=csv", "network.channels=8", "trainer.max_steps=2"))
    assert "set trainer.max_steps=29" in caplog.text
    assert not (tmp_path / "profile.txt").exists()


def test_settings_that_measure_nothing_are_refused():
    with pytest.raises(ValueError, match=r"callbacks\.profile"):
        Profile(steps=0)
