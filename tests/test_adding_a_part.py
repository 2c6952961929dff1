"""The page on own parts, followed to the letter: its files put where it says, and trained with."""

import csv
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from conftest import config

from diffusion.experiment.config.validate import check
from diffusion.experiment.task import train

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding_a_part.md").read_text()
BLOCK = re.compile(r"```python\n# (\S+\.py)\n((?:(?!```).)*)```\n\n```yaml\n# (conf/\S+\.yaml)(: .*?)```", re.S)
SMALL = ["network.channels=8", "trainer.max_steps=2", "trainer.log_every_n_steps=2", "sampler=ddim", "sampler.steps=2"]
SMALL += ["logger=csv"]


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs with the page's own files in it; its modules can be imported."""
    found = BLOCK.findall(PAGE)
    assert [Path(yaml).stem for _, _, yaml, _ in found] == ["mean_distance", "pixels", "weight_norm", "sign_sgd"]
    for python, code, yaml, text in found:
        name = python.removesuffix(".py").replace("/", ".")
        source = tmp_path / "code" / python
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text(code)
        spec = importlib.util.spec_from_file_location(name, source)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(importlib.import_module(name.rpartition(".")[0]), Path(python).stem, module, raising=False)
        spec.loader.exec_module(module)
        target = tmp_path / yaml
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(f"# {yaml}{text}")
    return tmp_path / "conf"


def test_own_metric_extractor_callback_and_optimizer_work_in_a_training(followed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    chosen = ["evaluation=pixels", "evaluation/metric=mean_distance", "evaluation.num_samples=20", "optimizer=sign_sgd"]
    chosen += ["callbacks=[checkpoint,monitor,weight_norm]", "callbacks.weight_norm.every_n_train_steps=1"]
    cfg = config(run, f"hydra.searchpath=[file://{followed}]", *SMALL, *chosen)
    check(cfg)
    train.train(cfg)
    (path,) = run.glob("evaluation/*/metrics.json")
    record = json.loads(path.read_text())
    assert set(record["metrics"]) == {f"{n}_pixels-v1_20" for n in ("fd", "kid", "kid_std", "mean_distance")}
    assert record["better"] == {f"{name}_pixels-v1_20": "lower" for name in ("fd", "kid", "mean_distance")}
    own = record["fingerprint"]["own_metrics"]
    assert own == {"mean_distance": {"class": "MeanDistanceMetric", "power": 2.0}}
    assert 0 < record["metrics"]["mean_distance_pixels-v1_20"] < record["metrics"]["fd_pixels-v1_20"]
    with (run / "metrics.csv").open() as file:
        assert all(float(row["train/weight_norm"]) > 0 for row in csv.DictReader(file) if row["train/weight_norm"])
