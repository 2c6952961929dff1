"""Stable Diffusion, from diffusers' folder and from CompVis's checkpoint, against what their codes computed."""

import pytest
import torch
from PIL import Image
from published import Expected, imported, model
from scripts_in_process import run_script

from diffusion.guidance.classifier_free import ClassifierFreeGuidance
from diffusion.sampler.ddim import DDIMSampler
from diffusion.spacing.uniform import UniformSpacing

NAME = "compvis_sd_v1"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return imported("diffusers_sd15", "diffusers", tmp_path_factory.mktemp("sd15"))


@torch.no_grad()
def check(expected, loaded, output="model_output"):
    """Context, output, autoencoder."""
    cond = loaded.condition({"text": expected.facts["prompts"]})
    expected.check("context", cond.tokens)
    network = loaded.denoiser.network
    expected.check(output, network(expected["x"], expected["timesteps"].float(), cond))
    coder = loaded.autoencoder
    expected.check("encoder_moments", coder.moments(expected["image"]))


@torch.no_grad()
def ddim(expected, loaded, prompts):
    sampler = DDIMSampler(5, UniformSpacing(1), final="first")
    guided = ClassifierFreeGuidance(loaded.denoiser, 3.0)
    return sampler(guided, expected["noise"], loaded.condition({"text": prompts}))


def test_a_pipeline_of_diffusers_gives_what_it_gave(pipeline):
    expected, loaded = Expected("diffusers_sd15"), model(pipeline, "ema")
    check(expected, loaded)
    expected.check("decoded", loaded.autoencoder.decode(expected["x"]))
    expected.check("ddim5_latent", ddim(expected, loaded, expected.facts["prompts"]))


def test_its_scheduler_and_guidance_are_the_runs(pipeline):
    loaded = model(pipeline, "ema")
    assert (type(loaded.sampler).__name__, loaded.sampler.final) == ("PNDMSampler", "first")
    assert loaded.guidance.keys() == {"classifier_free"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return imported(NAME, "compvis", tmp_path_factory.mktemp("compvis"))


def test_a_checkpoint_of_compvis_gives_what_its_code_gave(checkpoint):
    expected, raw = Expected(NAME), model(checkpoint)
    check(expected, raw)
    check(expected, model(checkpoint, "ema"), "ema_model_output")
    mean = raw.autoencoder.draw(raw.autoencoder.moments(expected["image"]))
    expected.check("latent", mean)
    expected.check("decoded", raw.autoencoder.decode(expected["latent"]))
    expected.check("ddim5_latent", ddim(expected, raw, expected.facts["prompts"]))


def test_its_settings_are_the_runs(checkpoint):
    loaded = model(checkpoint)
    assert [round(level.t * 1000) - 1 for level in loaded.sampler.with_steps(5).levels(loaded.schedule)[:-1]] == [
        801, 601, 401, 201, 1,
    ]  # fmt: skip
    assert (loaded.sampler.steps, loaded.sampler.final, loaded.autoencoder.scale) == (50, "first", 0.18215)


def test_prompts_are_drawn(checkpoint):
    run_script(
        f"scripts/sample.py run={checkpoint} num_samples=2 sampler.steps=2 'text=[a red cat,dog]' negative=photo"
    )
    assert len(list(checkpoint.glob("samples/*/0*.png"))) == 2


def test_a_training_on_texts_starts_from_it(checkpoint, tmp_path):
    rows = ["file_name,text", *(f"{i}.png,a cat" for i in range(8))]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    for i in range(8):
        Image.new("RGB", (16, 16), (30 * i, 9, 9)).save(tmp_path / f"{i}.png")
    rest = "trainer.max_steps=1 evaluation=none logger=csv ~callbacks.samples ~callbacks.progress trainer=cpu"
    data = f"data=image_folder data.root={tmp_path} data.resolution=16 data.batch_size=2"
    place = f"paths.outputs={tmp_path / 'runs'} name=t"
    run_script(f"scripts/train.py --config-dir={checkpoint}/configs experiment={NAME} {data} {rest} {place}")
    (log,) = tmp_path.glob("runs/t/*/train.log")
    assert "new: none; not used: none" in log.read_text()
