"""A run of module=autoencoder as what others use: loaded, scored, exported, imported, and trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import config
from PIL import Image
from scripts_in_process import run_script
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

import diffusion
from diffusion.autoencoder.kl import KLAutoencoder
from diffusion.errors import ConfigError
from diffusion.evaluation.ranks import Ranks
from diffusion.evaluation.reconstruction import ReconstructionEvaluator
from diffusion.experiment.build.build import build_data
from diffusion.experiment.build.load import PREFIX, read_checkpoint, trained
from diffusion.experiment.config.validate import check
from diffusion.experiment.run.saved_config import read_resolved

WORDS = (
    "module=autoencoder autoencoder.widths=[8,16] autoencoder.blocks=1 autoencoder.groups=4 autoencoder.channels=2 "
    "autoencoder.attention=false data.batch_size=12 module.loss.adversarial_start=2 "
    "module.loss.discriminator.width=4 module.loss.discriminator.layers=1 optimizer.lr=2e-3 logger=csv trainer=cpu "
    "callbacks.samples.num_samples=4 evaluation=reconstruction evaluation.extractor=digits-cnn-v1"
)


def train(run: Path, *more: str) -> dict:
    kind = () if any(word.startswith("autoencoder=") for word in more) else ("autoencoder=trainable_kl",)
    run_script(f"scripts/train.py {WORDS} {' '.join((*kind, *more))} hydra.run.dir={run}")
    return read_checkpoint(run / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(folder, "trainer.max_steps=6", "trainer.val_check_interval=3", "trainer.log_every_n_steps=2")
    return folder


def digits(tmp_path: Path, n: int = 20) -> torch.Tensor:
    split = build_data(config(tmp_path, "data=digits")).split("test")
    return split.batch(torch.arange(n))["image"]


def test_a_run_holds_what_it_trained_and_what_it_measured(run: Path) -> None:
    cfg = read_resolved(run)
    assert not {"network", "schedule", "sampler", "objective"} & {*cfg}
    saved = read_checkpoint(run / "checkpoints" / "last.ckpt")
    heads = {name.split(".")[0] for name in saved["state_dict"]}
    assert heads == {"model", "average", "rival_network"}
    assert saved["rival"]["state"][0]["step"] == 4, "of six batches, two came before its start"
    assert Image.open(run / "samples" / "step_0000006.png").size == (2 * 66 + 2, 2 * 34 + 2), "pairs of 32 pixels"
    rows = (run / "metrics.csv").read_text().splitlines()
    assert {"val/psnr", "val/loss", "train/rival", "train/adversarial_weight"} <= {*rows[0].split(",")}
    assert len(json.loads((run / "latents.json").read_text())) == 2, "averaged and raw weights"


def test_a_run_is_loaded_as_a_frozen_autoencoder_with_latents_of_unit_variance(run: Path, tmp_path: Path) -> None:
    coder = diffusion.load(run)
    assert isinstance(coder, KLAutoencoder)
    assert not any(p.requires_grad for p in coder.model.parameters())
    images = build_data(config(tmp_path, "data=digits")).split("train")
    z = coder.encode(images.batch(torch.arange(len(images)))["image"], torch.randn_like)
    torch.testing.assert_close(z.std(), torch.tensor(1.0), rtol=2e-2, atol=0)
    raw = diffusion.load(run, weights="raw")
    assert coder.sha256 != raw.sha256
    again = diffusion.load(run)
    assert again.sha256 == coder.sha256
    model, _ = trained(read_resolved(run), run)
    x = digits(tmp_path)
    torch.testing.assert_close(coder.decode(coder.encode(x)), model(x).image)


def test_a_scale_that_was_not_measured_is_measured_when_it_is_needed(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "latents.json").unlink()
    assert diffusion.load(copy).sha256 == diffusion.load(run).sha256
    assert len(json.loads((copy / "latents.json").read_text())) == 1


def test_scores_are_those_of_torchmetrics_and_of_each_image(run: Path, tmp_path: Path) -> None:
    """SSIM needs 11 pixels: images are enlarged for it."""
    (path,) = run.glob("evaluation/*/metrics.json")
    record = json.loads(path.read_text())
    assert {*record["metrics"]} == {"psnr_897", "rfd_digits-cnn-v1_897"}
    assert record["better"] == {"psnr_897": "higher", "rfd_digits-cnn-v1_897": "lower"}
    assert (path.parent / "reconstructions.png").is_file()
    model, _ = trained(read_resolved(run), run)
    split = build_data(config(tmp_path, "data=digits")).split("test")
    x = split.batch(torch.arange(897))["image"]
    made = model(x).image
    error = ((((made.clamp(-1, 1) + 1) * 127.5).round() - split.images[:897]) / 255).square().flatten(1).mean(1)
    assert record["metrics"]["psnr_897"] == pytest.approx(float((-10 * error.double().log10()).mean()), abs=1e-3)
    large = (torch.rand(3, 1, 16, 16) * 255).byte()
    other = (large.float() * 0.8).byte()
    rows = ReconstructionEvaluator()._compare(large, other, None)
    for i in range(3):
        expected = ssim(other[i : i + 1].double(), large[i : i + 1].double(), data_range=255.0)
        torch.testing.assert_close(rows["ssim"][i], expected)


def test_a_perfect_reconstruction_has_no_distance(tmp_path: Path) -> None:
    class Same(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> object:
            return type("Made", (), {"image": x})

    model = Same(1, 1)
    data = build_data(config(tmp_path, "data=digits"))
    found = ReconstructionEvaluator("digits-cnn-v1", num_samples=200).evaluate(model, data).metrics
    assert found["psnr_200"] == 100
    assert found["rfd_digits-cnn-v1_200"] == pytest.approx(0, abs=1e-4)


def test_scores_do_not_depend_on_who_computes_which_batch(run: Path, tmp_path: Path, monkeypatch) -> None:
    """The rows of two ranks, computed in turn into one folder, and those of one rank, to the last bit."""
    model, _ = trained(read_resolved(run), run)
    data = build_data(config(tmp_path, "data=digits"))
    alone = ReconstructionEvaluator("digits-cnn-v1").evaluate(model, data, tmp_path / "alone").metrics
    deal = Ranks.deal
    with monkeypatch.context() as first:
        first.setattr(Ranks, "deal", lambda self, n: iter(range(0, n, 2)))
        first.setattr("diffusion.evaluation.features.gather.FeatureGatherer._collect", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ReconstructionEvaluator("digits-cnn-v1").evaluate(model, data, tmp_path / "two")
    assert Ranks.deal is deal
    seen = len([*(tmp_path / "two").glob("shards/*/*.safetensors")])
    assert seen == 5
    assert ReconstructionEvaluator("digits-cnn-v1").evaluate(model, data, tmp_path / "two").metrics == alone


def test_evaluate_writes_a_score_of_a_run(run: Path) -> None:
    run_script(f"scripts/evaluate.py run={run} weights=raw evaluation.extractor=null trainer.accelerator=cpu")
    (path,) = run.glob("evaluation/last_raw_*/metrics.json")
    assert {*json.loads(path.read_text())["metrics"]} == {"psnr_897"}
    (path.parent / "metrics.json").unlink()


def test_an_exported_autoencoder_comes_back(run: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    run_script(f"scripts/export.py run={run} output={tmp_path / 'out'}")
    theirs, ours, x = AutoencoderKL.from_pretrained(tmp_path / "out"), diffusion.load(run), digits(tmp_path)
    with torch.no_grad():
        latent = theirs.encode(x).latent_dist.mode() * theirs.config.scaling_factor
    torch.testing.assert_close(ours.encode(x), latent)
    run_script(f"scripts/import.py format=diffusers path={tmp_path / 'out'} name=back paths.outputs={tmp_path}")
    back = diffusion.load(tmp_path / "imported" / "back")
    assert torch.equal(back.encode(x), ours.encode(x))
    assert torch.equal(back.decode(ours.encode(x)), ours.decode(ours.encode(x)))


LATENT = (
    "autoencoder=run autoencoder.channels=2 autoencoder.factor=2 network=unet_tiny network.channels=8 "
    "network.channel_mult=[1,2] network.attention=[] guidance=none sampler=ddim sampler.steps=2 trainer=cpu logger=csv "
    "callbacks.samples.num_samples=2 evaluation=none trainer.max_steps=2 data.batch_size=8"
)


@pytest.mark.slow
def test_a_model_trained_on_latents_refuses_those_of_another(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "coder")
    cache = f"callbacks=[default,latents] callbacks.latents.folder={tmp_path / 'cache'}"
    run_script(f"scripts/train.py {LATENT} {cache} autoencoder.run={copy} hydra.run.dir={tmp_path / 'model'}")
    model = diffusion.load(tmp_path / "model")
    assert model.autoencoder.sha256 == diffusion.load(run).sha256
    assert model.sample(2).shape == (2, 1, 8, 8)
    files = {path.name for path in (tmp_path / "cache").iterdir()}
    path = copy / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    name = next(name for name in saved["state_dict"] if name.startswith(PREFIX["ema"]))
    saved["state_dict"][name] += 1
    torch.save(saved, path)
    with pytest.raises(ConfigError, match=r"autoencoder was .* with weights of sha256 .*; set autoencoder\.run to"):
        diffusion.load(tmp_path / "model")
    again = f"autoencoder.run={copy} hydra.run.dir={tmp_path / 'other'}"
    run_script(f"scripts/train.py {LATENT} {cache} {again}")
    assert len({path.name for path in (tmp_path / "cache").iterdir()} - files) == 2, "of its own name"


def test_channels_are_centred_and_scaled_each(run: Path, tmp_path: Path) -> None:
    from diffusion.autoencoder.run import run_autoencoder

    coder = run_autoencoder(str(run), channels=2, factor=2, image_channels=1, latents="channels")
    images = build_data(config(tmp_path, "data=digits")).split("train")
    z = coder.encode(images.batch(torch.arange(len(images)))["image"], torch.randn_like)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=2e-2)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(2), rtol=2e-2, atol=0)
    assert coder.sha256 != diffusion.load(run).sha256
    x = digits(tmp_path)
    torch.testing.assert_close(coder.decode(coder.encode(x)), diffusion.load(run).decode(diffusion.load(run).encode(x)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_resumed_run_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    """Of the discriminator and its optimizer too."""
    words = [f"autoencoder=trainable_{kind}", *(["autoencoder.codes=8"] if kind == "vq" else [])]
    whole = train(tmp_path / "whole", *words, "trainer.max_steps=6")
    train(tmp_path / "cut", *words, "trainer.max_steps=3")
    run_script(f"scripts/train.py resume={tmp_path / 'cut'} trainer.max_steps=6")
    resumed = read_checkpoint(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert whole["state_dict"].keys() == resumed["state_dict"].keys()
    assert all(torch.equal(x, resumed["state_dict"][name]) for name, x in whole["state_dict"].items())
    for number, state in whole["rival"]["state"].items():
        assert all(torch.equal(x, resumed["rival"]["state"][number][name]) for name, x in state.items())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("autoencoder=trainable_kl", "is trained by module=autoencoder"),
        ("evaluation=reconstruction", "choose an evaluation that scores samples"),
    ],
)
def test_a_denoisers_training_takes_no_part_of_an_autoencoders(words: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check(config(tmp_path, words))


def test_what_an_autoencoder_has_not_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, sentence in (
        (f"scripts/train.py {WORDS} autoencoder=trainable_kl network=dit_s2", "module=autoencoder has no network"),
        (
            f"scripts/train.py {WORDS} autoencoder=trainable_kl ~callbacks.checkpoint",
            "measures latents with its last checkpoint",
        ),
        (f"scripts/evaluate.py run={run} sampler=ddim", "is an autoencoder, which has no sampler"),
        (f"scripts/evaluate.py run={run} labels=drawn", "an autoencoder draws nothing"),
        (f"scripts/evaluate.py run={run} plan=true", "how long reconstructions take is not foretold"),
        (f"scripts/sample.py run={run}", "is an autoencoder, which draws no images of its own"),
    ):
        with pytest.raises(pytest.fail.Exception):
            run_script(line)
        (said,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
        assert sentence in said
