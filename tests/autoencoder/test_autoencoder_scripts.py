"""Training on latents through the scripts: what a checkpoint holds, resuming, samples and scores as images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import config
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from scripts_in_process import run_script
from tiny_kl import save_tiny

from diffusion.autoencoder import weights
from diffusion.autoencoder.kl import KLAutoencoder
from diffusion.data.split import share
from diffusion.errors import ConfigError, DataError
from diffusion.experiment.build.build import build_data
from diffusion.experiment.build.load import load_model
from diffusion.experiment.config import validate
from diffusion.training.latent_cache import callback, encoding
from diffusion.training.latent_cache.callback import LatentCache
from diffusion.training.latent_cache.encoding import Encoding


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 32 pixels with labels, and an autoencoder that makes 4 x 4 latents of them."""
    folder = tmp_path_factory.mktemp("latents")
    random = np.random.default_rng(0)
    for i in range(48):
        (folder / "images" / str(i % 3)).mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / str(i % 3) / f"{i}.png")
    save_tiny(folder / "kl")
    return folder


def words(place: Path, *more: str) -> list[str]:
    return [
        "data=image_folder", f"data.root={place / 'images'}", "data.resolution=32", "data.num_classes=3",
        "data.batch_size=8", "data.flip=true", "autoencoder=kl", f"autoencoder.pretrained={place / 'kl'}",
        "network=unet_tiny", "network.channels=8", "network.channel_mult=[1,2]", "network.attention=[2]",
        "conditioner=label", "guidance=[classifier_free]", "sampler=ddim", "sampler.steps=2", "trainer=cpu",
        "callbacks.samples.num_samples=2", "callbacks.samples.every_n_train_steps=2",
        "callbacks.checkpoint.every_n_train_steps=2", "trainer.val_check_interval=2", "logger=csv",
        *([] if any(word.startswith("evaluation=") for word in more) else ["evaluation=none"]), *more,
    ]  # fmt: skip


def train(place: Path, run: Path, *more: str) -> dict:
    run_script(f"scripts/train.py {' '.join(words(place, *more))} hydra.run.dir={run}")
    return checkpoint(run)


def checkpoint(run: Path) -> dict:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    train(place, place / "run", "trainer.max_steps=4")
    return place / "run"


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(place: Path, run: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "run", "trainer.max_steps=2")
    run_script(f"scripts/train.py resume={tmp_path / 'run'} trainer.max_steps=4")
    one, other = checkpoint(run), checkpoint(tmp_path / "run")
    assert one["global_step"] == other["global_step"] == 4
    assert one["state_dict"].keys() == other["state_dict"].keys()
    assert all(torch.equal(value, other["state_dict"][name]) for name, value in one["state_dict"].items())


@pytest.mark.slow
def test_latents_made_once_train_to_the_same_bits(place: Path, tmp_path: Path) -> None:
    one_by_one = ["trainer.max_steps=3", "autoencoder.max_batch=1"]  # a kernel may depend on the batch
    plain = train(place, tmp_path / "plain", *one_by_one)
    kept = [*one_by_one, "callbacks=[default,latents]", f"callbacks.latents.folder={tmp_path / 'cache'}"]
    made = train(place, tmp_path / "made", *kept)
    files = sorted((tmp_path / "cache").iterdir())
    written = [file.stat().st_mtime_ns for file in files]
    found = train(place, tmp_path / "found", *kept)
    assert sorted((tmp_path / "cache").iterdir()) == files
    assert [file.stat().st_mtime_ns for file in files] == written
    for other in (made, found):
        assert all(torch.equal(value, other["state_dict"][name]) for name, value in plain["state_dict"].items())
    losses = [(tmp_path / name / "metrics.csv").read_text().split("test/loss") for name in ("plain", "made", "found")]
    assert losses[0][1:] == losses[1][1:] == losses[2][1:]
    data = build_data(config(tmp_path, *words(place)))
    rows = sorted((2 * len(data.split("train")), len(data.split("test"))))
    arrays = sorted((np.load(file) for file in files), key=len)
    assert [array.shape for array in arrays] == [(n, 8, 4, 4) for n in rows], "mean and log variance: to be drawn from"


class Counted(KLAutoencoder):
    """Counts the images that it is asked to encode; breaks off after ``limit``."""

    def __init__(self, place: Path, limit: int = 10**9) -> None:
        super().__init__(str(place / "kl"), max_batch=1)
        self.seen, self.limit = 0, limit

    def moments(self, image: torch.Tensor) -> torch.Tensor:
        if self.seen >= self.limit:
            raise KeyboardInterrupt
        self.seen += len(image)
        return super().moments(image)


def encoded(made: Encoding, coder: KLAutoencoder, world_size: int = 1) -> np.ndarray:
    assert made.claim()
    made.begin(coder, torch.device("cpu"))
    rows = made.missing()
    for rank in range(world_size):
        made.fill(coder, torch.device("cpu"), share(rows, rank, world_size))
    made.finish()
    made.release()
    return made.mapped().numpy()


def test_ranks_share_the_making_of_latents(place: Path, tmp_path: Path) -> None:
    split, coder = (
        build_data(config(tmp_path, *words(place))).split("train"),
        KLAutoencoder(str(place / "kl"), max_batch=1),
    )
    one = encoded(Encoding(tmp_path / "one.npy", split, True), coder)
    two = encoded(Encoding(tmp_path / "two.npy", split, True), coder, world_size=2)
    straight = encoded(Encoding(tmp_path / "straight.npy", split, False), coder)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one[: len(split)], straight)
    image = split.batch(torch.arange(1))["image"]
    wanted = torch.cat((coder.moments(image), coder.moments(image.flip(-1))))
    assert torch.equal(torch.from_numpy(one[[0, len(split)]]), wanted)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.npy", "straight.npy", "two.npy"]


def test_what_a_killed_job_encoded_is_not_encoded_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "SAVED_EVERY", -1.0)  # seconds
    split = build_data(config(tmp_path, *words(place))).split("train")
    whole = encoded(Encoding(tmp_path / "whole.npy", split, False), KLAutoencoder(str(place / "kl"), max_batch=1))
    killed, rest = Counted(place, limit=11), Counted(place)
    made = Encoding(tmp_path / "made.npy", split, False)
    with pytest.raises(KeyboardInterrupt):
        encoded(made, killed)
    made.release()
    np.testing.assert_array_equal(encoded(Encoding(tmp_path / "made.npy", split, False), rest, world_size=2), whole)
    assert killed.seen + rest.seen == len(split) + 1, "and one for the shape"


def test_two_jobs_do_not_make_the_same_latents(place: Path, tmp_path: Path) -> None:
    split = build_data(config(tmp_path, *words(place))).split("train")
    first, second = (Encoding(tmp_path / "made.npy", split, False) for _ in range(2))
    assert first.claim()
    assert not second.claim()
    first.release()
    assert second.claim()
    second.release()


def test_a_job_waits_for_the_latents_that_another_makes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is done at the third look; nothing is encoded here."""
    monkeypatch.setattr(callback, "WAIT", 0.0)
    split = build_data(config(tmp_path, *words(place))).split("train")
    other, mine = (Encoding(tmp_path / "made.npy", split, False) for _ in range(2))
    coder = Counted(place)
    assert other.claim()
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            other.begin(KLAutoencoder(str(place / "kl")), torch.device("cpu"))
            other.fill(KLAutoencoder(str(place / "kl")), torch.device("cpu"), other.missing())
            other.finish()
            other.release()

    monkeypatch.setattr(callback.time, "sleep", sleep)
    trainer = SimpleNamespace(strategy=SimpleNamespace(broadcast=lambda value: value), is_global_zero=True)
    LatentCache(str(tmp_path))._make(mine, coder, trainer, torch.device("cpu"))
    assert (looks, coder.seen) == (2, 0)
    assert mine.mapped().shape == (len(split), 8, 4, 4)


def test_images_have_no_latents_to_keep(train_config) -> None:
    from diffusion.experiment.task.train import run

    with pytest.raises(DataError, match="add autoencoder=kl"):
        run(train_config("callbacks=[default,latents]", "trainer.max_steps=1"))


def test_conditions_on_parts_of_images_have_no_latents_to_keep(train_config) -> None:
    from diffusion.experiment.task.train import run

    with pytest.raises(DataError, match="leaves images out of batches"):
        run(train_config("callbacks=[default,latents]", "conditioner=mask", "guidance=none", "trainer.max_steps=1"))


def test_images_that_change_at_every_step_have_no_latents_to_keep(train_config) -> None:
    from diffusion.experiment.task.train import run

    changed = ["augmentation=geometric", "network=ddpmpp_cifar10", "network.attention=[]"]
    with pytest.raises(DataError, match="augmentation changes them at every step"):
        run(train_config("callbacks=[default,latents]", "trainer.max_steps=1", *changed))


@pytest.mark.slow
def test_a_checkpoint_names_the_autoencoder_and_does_not_hold_it(place: Path, run: Path) -> None:
    saved = checkpoint(run)
    assert saved["frozen"] == {"autoencoder": weights.sha256_of(place / "kl")}
    assert not [name for name in saved["state_dict"] if "autoencoder" in name]
    network = sum(value.nbytes for name, value in saved["state_dict"].items() if name.startswith("model.denoiser."))
    assert (run / "checkpoints" / "last.ckpt").stat().st_size < 6 * network, "weights, average, two moments, names"
    assert saved["state_dict"]["model.denoiser.network.stem.weight"].shape[1] == 4


def test_grids_in_training_are_of_images(run: Path) -> None:
    with Image.open(run / "samples" / "step_0000004.png") as grid:
        assert grid.size == (2 + 2 * 34, 2 + 34)


@pytest.mark.slow
def test_samples_and_scores_are_of_images(place: Path, run: Path, tmp_path: Path) -> None:
    run_script(f"scripts/sample.py run={run} num_samples=5 batch_size=3 output={tmp_path / 'drawn'}")
    images = np.load(tmp_path / "drawn" / "samples.npz")["arr_0"]
    assert images.shape == (5, 32, 32, 3)
    small = "evaluation.num_samples=12 evaluation.batch_size=5 evaluation.metrics=[fd]"
    run_script(f"scripts/evaluate.py run={run} evaluation=efficientnet {small} trainer.accelerator=cpu")
    (file,) = (run / "evaluation").glob("*/metrics.json")
    result = json.loads(file.read_text())
    assert result["fingerprint"]["samples"]["autoencoder"]["sha256"] == weights.sha256_of(place / "kl")
    assert result["fingerprint"]["samples"]["shape"] == [4, 4, 4]
    assert np.isfinite(result["metrics"]["fd_efficientnet-lite0_12"])


@pytest.mark.slow
def test_another_autoencoder_is_refused_and_the_same_in_another_folder_is_not(
    place: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = OmegaConf.load(run / "config.yaml")
    cfg.autoencoder.pretrained = cfg.module.model.autoencoder.pretrained = str(
        shutil.copytree(place / "kl", tmp_path / "kl")
    )
    load_model(cfg, run)
    copied = shutil.copytree(run, tmp_path / "run")
    run_script(f"scripts/train.py resume={copied} trainer.max_steps=5 autoencoder.pretrained={tmp_path / 'kl'}")
    assert checkpoint(copied)["global_step"] == 5
    file = tmp_path / "kl" / weights.WEIGHTS
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    sentence = "trained with the autoencoder of sha256"
    with pytest.raises(ConfigError, match=sentence):
        load_model(cfg, run)
    with pytest.raises(pytest.fail.Exception, match="ended with 2"):
        run_script(f"scripts/train.py resume={copied} autoencoder.posterior=mode")
    assert "was trained with autoencoder.posterior=sample" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["data.resolution=36"], "set data.resolution to a multiple of 8"),
        (["autoencoder.resolution=8"], "set autoencoder.resolution=4"),
        (["autoencoder.channels=16"], "that of the model is 4; set autoencoder.channels=4"),
        (["autoencoder.factor=4"], "that of the model is 8; set autoencoder.factor=8"),
        (["data.channels=1"], "that of the model is 3; set data.channels=3"),
        (["network.in_channels=3"], "set network.in_channels=4"),
        (["network.channel_mult=[1,1,1,1]"], "make data.resolution a multiple of 64"),
        (["guidance=[classifier_free,clip]"], "guidance=clip holds x_0 in [-1, 1]"),
        (["guidance=dynamic_threshold"], "guidance=dynamic_threshold holds x_0 in [-1, 1]"),
        (["guidance=inpaint", "guidance.inpaint.measurement=y.npy"], "guidance=inpaint measures images"),
        (["evaluation=restoration"], "set guidance@evaluation.posterior=psld or resample"),
        (["evaluation=efficientnet", "evaluation/likelihood=flow"], "bits per dimension are of images"),
        (["autoencoder.pretrained=/nowhere"], "is no folder"),
        (["autoencoder.max_batch=0"], "autoencoder.max_batch is a number of images"),
    ],
)
def test_what_does_not_fit_latents_is_refused_in_a_sentence(
    place: Path, tmp_path: Path, more: list[str], sentence: str
) -> None:
    cfg = config(tmp_path, *words(place, *more))
    with pytest.raises(ConfigError) as caught:
        validate.check(cfg)
    assert sentence in str(caught.value)


def test_without_diffusers_a_sentence_says_what_to_install(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusion.experiment.config import autoencoder_rules

    monkeypatch.setattr(autoencoder_rules, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"autoencoder=kl needs diffusers; pip install 'alphabar\[latent\]'"):
        validate.check(config(tmp_path, *words(place)))
