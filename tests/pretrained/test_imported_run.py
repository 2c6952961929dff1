"""A run folder that was imported is used as one that was trained here."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel
from PIL import Image
from published import Expected, imported
from scripts_in_process import run_script

import diffusion


def save_pipeline(folder, size=8, channels=1, seed=0, scheduler=None):
    """A DDPMPipeline with random weights."""
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip
    DDPMPipeline(unet, scheduler or DDIMScheduler(clip_sample=True)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    source = save_pipeline(folder / "published")
    run_script(f"scripts/import.py format=diffusers path={source} name=d dataset=digits paths.outputs={folder}")
    return folder / "imported" / "d"


@pytest.mark.slow
def test_it_is_sampled_and_scored(digits):
    run_script(f"scripts/sample.py run={digits} num_samples=4 sampler=heun sampler.steps=3")
    assert len(list(digits.glob("samples/*/0*.png"))) == 4
    run_script(f"scripts/evaluate.py run={digits} evaluation=digits evaluation.num_samples=100 sampler.steps=2")
    (scores,) = [json.loads(path.read_text()) for path in digits.glob("evaluation/*/metrics.json")]
    assert scores["fingerprint"]["samples"]["sampler"]["class"] == "DDIMSampler"


def test_its_images_are_those_that_the_command_draws(digits):
    run_script(f"scripts/sample.py run={digits} num_samples=2 sampler.steps=4 output={digits.parent / 'drawn'}")
    images = diffusion.load(digits).sample(2, steps=4)
    drawn = Image.open(digits.parent / "drawn" / "000001.png")
    assert list(drawn.getdata()) == images[1].flatten().tolist()


def test_a_training_starts_from_it(digits, tmp_path):
    rest = "trainer.max_steps=1 evaluation=none logger=csv ~callbacks.samples ~callbacks.progress trainer=cpu"
    run_script(f"scripts/train.py --config-dir={digits}/configs experiment=d {rest} paths.outputs={tmp_path} name=t")
    (log,) = tmp_path.glob("t/*/train.log")
    assert "new: none; not used: none" in log.read_text()


def test_it_is_used_where_it_was_moved_to(digits, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(digits, moved)
    assert torch.equal(diffusion.load(moved).sample(1, steps=2), diffusion.load(digits).sample(1, steps=2))


def test_its_training_is_not_resumed(digits, capsys):
    with pytest.raises(pytest.fail.Exception, match="ended with 2"):
        run_script(f"scripts/train.py resume={digits}")
    assert "whose training is not here to be resumed" in capsys.readouterr().err


def test_what_cannot_be_imported_leaves_no_folder(tmp_path, capsys):
    source = save_pipeline(tmp_path / "p")
    weights = source / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    cases = {
        f"format=diffusers path={source}": "damaged, cut short",
        f"format=difusers path={source}": "did you mean 'diffusers'",
        f"format=diffusers path={tmp_path / 'nowhere'}": "neither a file, a folder, nor a name",
        "format=diffusers path=google/ddpm-cifar10-32": "hub did not give it",
        f"format=dit path={source}": "",
    }
    for line, sentence in cases.items():
        with pytest.raises(pytest.fail.Exception, match="ended with 2"):
            run_script(f"scripts/import.py {line} name=x paths.outputs={tmp_path / 'out'}")
        assert sentence in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("config.yaml"))


def test_origin_says_where_it_came_from(tmp_path):
    run = imported("diffusers_ddpm_cifar10", "diffusers", tmp_path)
    origin = json.loads((run / "origin.json").read_text())
    assert origin["files"]["unet/diffusion_pytorch_model.safetensors"].startswith("8fab48f948657edf")
    assert origin["format"] == "diffusers"
    assert origin["dropped"] == {}


def test_an_autoencoder_alone_is_loaded_and_used(tmp_path, capsys):
    expected = Expected("diffusers_autoencoder_kl")
    run = imported("diffusers_autoencoder_kl", "diffusers", tmp_path)
    coder = diffusion.load(run)
    expected.check("encoder_moments", coder.moments(expected["image"]))
    expected.check("decoded", coder.decode(expected["z"] * coder.scale))
    sizes = "data=none data.resolution=32 autoencoder.channels=4 autoencoder.factor=4 evaluation=none guidance=none"
    run_script(f"scripts/train.py --cfg job autoencoder=run autoencoder.run={run} {sizes}")
    with pytest.raises(pytest.fail.Exception):
        run_script(f"scripts/sample.py run={run}")
    assert "draws no images of its own" in capsys.readouterr().err
