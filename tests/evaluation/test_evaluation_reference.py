"""Statistics from files: our own references, other projects' arrays, and pickles that hold more than arrays."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion.data.digits import Digits
from diffusion.evaluation.evaluator import Evaluator
from diffusion.evaluation.metrics.fidelity import Protocol, shipped
from diffusion.evaluation.metrics.frechet import Statistics
from diffusion.evaluation.reference import from_file

SETTINGS = {"num_samples": 60, "batch_size": 300}


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture
def made(tmp_path: Path, digits: Digits) -> Path:
    """A reference file of the digits' training split, as scripts/reference.py leaves it."""
    Evaluator(**SETTINGS, metrics=["fd", "kid"], cache=str(tmp_path)).evaluate(digits.split("test").images[:60], digits)
    return next(tmp_path.glob("*.safetensors"))


def test_a_file_serves_as_the_data_it_was_made_of(made: Path, digits: Digits) -> None:
    images = digits.split("test").images[:60]
    from_data = Evaluator(**SETTINGS, metrics=["fd", "kid"]).evaluate(images, digits)
    from_the_file = Evaluator(**SETTINGS, metrics=["fd", "kid"], reference=str(made)).evaluate(images, None)
    assert from_the_file.metrics == from_data.metrics
    assert from_the_file.real_baseline == {}
    assert from_the_file.fingerprint["reference"]["key"] == from_data.fingerprint["reference"]["key"]


def test_a_file_of_other_features_or_without_a_record_is_refused(made: Path, digits: Digits) -> None:
    images = digits.split("test").images[:60]
    record = made.with_suffix(".json")
    stored = json.loads(record.read_text())
    record.write_text(json.dumps(stored | {"extractor": {"name": "another"}}))
    with pytest.raises(ValueError, match="'another'"):
        Evaluator(**SETTINGS, metrics=["fd"], reference=str(made)).evaluate(images, None)
    record.write_text(json.dumps(stored | {"layers": ["logits"]}))
    with pytest.raises(ValueError, match=r"needed are \['features'\]"):
        Evaluator(**SETTINGS, metrics=["fd"], reference=str(made)).evaluate(images, None)
    record.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="holds no labels, which fd_class needs"):
        Evaluator(**SETTINGS, metrics=["fd_class"], reference=str(made)).evaluate(
            images, None, labels=digits.split("test").labels[:60]
        )
    record.unlink()
    with pytest.raises(ValueError, match="no readable record"):
        Evaluator(**SETTINGS, metrics=["fd"], reference=str(made)).evaluate(images, None)


def features(digits: Digits) -> Statistics:
    from diffusion.evaluation.features.extractor import Extractor, extract

    network = Extractor("digits-cnn-v1").build(["features"])
    images = digits.split("train").images
    return Statistics.of(torch.cat([extract(network, part)["features"] for part in images.split(300)]))


@pytest.mark.parametrize("kind", ["npz float64", "npz float32", "pkl", "pkl below fid"])
def test_other_projects_statistics_give_the_distance_of_the_images(kind: str, tmp_path: Path, digits: Digits) -> None:
    images, real = digits.split("test").images[:60], features(digits)
    kinds = {"npz float64": np.float64, "npz float32": np.float32}
    arrays = {"mu": real.mu.astype(kinds.get(kind, np.float64)), "sigma": real.sigma}
    path = tmp_path / f"stats.{kind.split()[0]}"
    if kind.startswith("npz"):
        np.savez(path, **arrays)
    else:
        path.write_bytes(pickle.dumps({"fid": arrays} if kind.endswith("fid") else arrays))
    expected = Evaluator(**SETTINGS, metrics=["fd"]).evaluate(images, digits)
    result = Evaluator(**SETTINGS, metrics=["fd"], reference=str(path)).evaluate(images, digits)
    assert list(result.metrics.values()) == pytest.approx(list(expected.metrics.values()), rel=1e-6)
    assert result.real_baseline.keys() == result.metrics.keys()
    assert result.fingerprint["reference"]["file"] == path.name


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["HARM"],)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    path = tmp_path / "stats.pkl"
    path.write_bytes(pickle.dumps({"mu": np.zeros(2), "sigma": Harmful()}))
    with pytest.raises(ValueError, match=r"refers to posix\.mkdir, and only arrays are read"):
        from_file(path, {}, shipped(["fd"], Protocol()), {"fd": "features"})
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("arrays", "metrics", "message"),
    [
        ({"mean": np.zeros(2)}, ["fd"], "no arrays 'mu' and 'sigma'"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, ["fd"], r"no mean \(D,\) with a covariance"),
        ({"mu": np.full(2, np.nan), "sigma": np.eye(2)}, ["fd"], "finite"),
        ({"mu": np.zeros(2), "sigma": np.eye(2)}, ["sfd"], "sFID needs mu_s"),
        ({"mu": np.zeros(2), "sigma": np.eye(2)}, ["fd", "kid"], "not kid"),
    ],
)
def test_files_that_do_not_serve_say_why(arrays: dict, metrics: list[str], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        from_file(
            tmp_path / "s.npz",
            {},
            shipped(metrics, Protocol()),
            {"fd": "features", "sfd": "spatial", "kid": "features"},
        )


def test_a_missing_file_is_named(digits: Digits) -> None:
    with pytest.raises(ValueError, match="there is no file nowhere"):
        Evaluator(**SETTINGS, metrics=["fd"], reference="nowhere").evaluate(digits.split("test").images[:60], digits)
    with pytest.raises(ValueError, match="no data set to compare with"):
        Evaluator(**SETTINGS, metrics=["fd"]).evaluate(digits.split("test").images[:60], None)
