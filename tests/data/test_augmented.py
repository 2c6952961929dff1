"""data=augmented: some real images of each class, samples of a run, or both; held out are the real images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import config
from model_folders import run_folder

import diffusion
from diffusion.data.augmented import Augmented, chosen
from diffusion.data.digits import Digits
from diffusion.data.synthetic import Synthetic
from diffusion.errors import ConfigError, DataError
from diffusion.experiment.config.validate import check

SMALL = ["data.resolution=8", "sampler=ddim", "sampler.steps=2", "spacing=trailing"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder(tmp_path_factory.mktemp("runs"), "labelled", *SMALL, "conditioner=label")


def test_of_each_class_as_many_and_fewer_are_among_more() -> None:
    labels = Digits().split("train").labels
    rows = {n: chosen(labels, 10, n, subset=3) for n in (1, 8, 80)}
    for n, found in rows.items():
        assert labels[found].bincount().tolist() == [n] * 10
        assert (found.diff() > 0).all()
    assert set(rows[1].tolist()) < set(rows[8].tolist()) < set(rows[80].tolist())
    assert not torch.equal(rows[8], chosen(labels, 10, 8, subset=4))
    assert torch.equal(chosen(labels, 10, None, subset=3), torch.arange(900))
    with pytest.raises(DataError, match=r"data\.per_class=900, and class \d has \d\d training images; set"):
        chosen(labels, 10, 900, subset=3)


def test_real_images_and_the_samples_that_sampling_draws(run: Path, tmp_path: Path) -> None:
    def data(keep_real: bool) -> Augmented:
        synthetic = Synthetic(str(run), per_class=3, batch_size=8, seed=5)
        return Augmented(Digits(), synthetic, per_class=4, subset=1, keep_real=keep_real, cache=str(tmp_path))

    due = diffusion.load(run).sample(30, seed=5, batch_size=8)
    alone = data(keep_real=False).split("train")
    assert torch.equal(alone.images, due)
    assert alone.labels.tolist() == 3 * list(range(10))

    (file,) = tmp_path.rglob("*.npy")
    drawn = file.stat().st_mtime_ns
    both, real = data(keep_real=True), Digits()
    rows = chosen(real.split("train").labels, 10, 4, subset=1)
    assert torch.equal(both.split("train").images, torch.cat((real.split("train").images[rows], due)))
    assert both.split("train").labels.bincount().tolist() == [7] * 10
    assert both.content("test") == real.content("test")
    assert file.stat().st_mtime_ns == drawn, "drawn once"


def test_what_cannot_be_trained_on_is_refused(run: Path, tmp_path: Path) -> None:
    for words, sentence in (
        ({"keep_real": False}, "no run makes any; set data.synthetic.run"),
        ({"per_class": 0}, r"data\.per_class is at least 1, or null"),
        ({"subset": -1}, r"data\.subset is 0 or more, got -1"),
    ):
        with pytest.raises(DataError, match=sentence):
            Augmented(Digits(), Synthetic(), **words)
    with pytest.raises(DataError, match=r"data\.synthetic\.per_class is at least 1, got 0"):
        Synthetic(per_class=0)
    plain = run_folder(tmp_path, "plain", *SMALL)
    with pytest.raises(DataError, match="plain makes 0 classes; set"):
        Augmented(Digits(), Synthetic(str(plain)), cache=str(tmp_path)).setup()
    with pytest.raises(ConfigError, match="nothing is not a run folder"):
        Augmented(Digits(), Synthetic("nothing"), cache=str(tmp_path)).setup()


def test_a_run_on_some_of_the_images_is_of_the_same_data_set(tmp_path: Path) -> None:
    weak = run_folder(tmp_path, "weak", "data=augmented", "data.per_class=4", "conditioner=label")
    words = ["guidance=auto", f"guidance.auto.weak.run={weak}", "conditioner=label", "evaluation=none", "logger=csv"]
    check(config(tmp_path, *words))
    with pytest.raises(ConfigError, match="is of another data set"):
        check(config(tmp_path, *words, "data=augmented", "data@data.real=fashion_mnist", "network=unet_small"))


@pytest.mark.parametrize("name", ["digits", "fashion"])
def test_the_model_is_trained_on_the_real_images_of_the_classifier(name: str, tmp_path: Path) -> None:
    """A generator that has seen more real images than the classifier would bring them along in its samples."""
    cfg = config(tmp_path, f"experiment={name}_synthetic_classifier", "data.per_class=3", "seed=5")
    same = {"data=augmented", "data.per_class=3", "data.subset=5", "seed=5"}
    assert same < set(cfg.needs.generator)
    assert (cfg.data.per_class, cfg.data.subset, cfg.data.keep_real) == (3, 5, False)
    if name == "fashion":
        assert "data@data.real=fashion_mnist" in cfg.needs.generator
