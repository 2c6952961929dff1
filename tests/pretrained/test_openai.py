"""OpenAI's codes: guided-diffusion, improved-diffusion, consistency models, against what they computed."""

import numpy as np
import pytest
import torch
from PIL import Image
from published import Expected, imported, model
from scripts_in_process import run_script

import diffusion
from diffusion.guidance.clip import ClipGuidance
from diffusion.sampler.ddim import DDIMSampler
from diffusion.spacing.indices import IndicesSpacing


@pytest.fixture(scope="module")
def adm(tmp_path_factory):
    return imported("guided_adm_classcond", "guided_diffusion", tmp_path_factory.mktemp("adm"))


@torch.no_grad()
def output(loaded, expected, times="timesteps"):
    cond = loaded.condition({"label": expected["y"]}) if "y" in expected.arrays else loaded.condition({})
    return loaded.denoiser.network(expected["x"], expected[times].float(), cond)


@torch.no_grad()
def ddim(loaded, expected, denoiser=None):
    indices = expected.facts["conventions"]["ddim5_timesteps"][::-1]
    sampler = DDIMSampler(len(indices), IndicesSpacing(indices))
    cond = loaded.condition({"label": expected["y"]})
    return sampler(denoiser or loaded.denoiser, expected["noise"], cond)


def test_adm_gives_what_its_code_gives(adm):
    expected = Expected("guided_adm_classcond")
    raw = model(adm)
    expected.check("model_output", output(raw, expected))
    expected.check("model_output_fractional", output(raw, expected, "timesteps_fractional"))
    expected.check("ema_model_output", output(model(adm, "ema"), expected))


def test_adm_samples_as_its_code_samples(adm):
    expected = Expected("guided_adm_classcond")
    raw = model(adm)
    expected.check("ddim5_sample", ddim(raw, expected))
    expected.check("ddim5_sample_clipped", ddim(raw, expected, ClipGuidance(raw.denoiser)))


def test_a_classifier_gives_logits_and_gradients(tmp_path):
    expected = Expected("guided_classifier_attention")
    run = imported("guided_classifier_attention", "guided_diffusion", tmp_path)
    classifier = model(run, "ema").denoiser
    x = expected["x"].requires_grad_()
    logits = classifier.network(x, expected["timesteps"].float())
    expected.check("logits", logits.detach())
    chosen = logits.log_softmax(1).gather(1, expected["y"][:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, x)
    expected.check("cond_grad", 10 * gradient)


def test_improved_diffusion_gives_what_its_code_gives(tmp_path):
    expected = Expected("improved_cosine_learnsigma")
    run = imported("improved_cosine_learnsigma", "improved_diffusion", tmp_path)
    raw = model(run)
    expected.check("model_output", output(raw, expected))
    expected.check("ema_model_output", output(model(run, "ema"), expected))
    expected.check("ddim5_sample", ddim(raw, expected))


def test_a_consistency_model_gives_what_its_code_gives(tmp_path):
    expected = Expected("consistency_cd_classcond")
    run = imported("consistency_cd_classcond", "consistency_models", tmp_path)
    loaded = model(run, "ema")
    cond = loaded.condition({"label": expected["y"]})
    with torch.no_grad():
        levels = [loaded.schedule.time(float(sigma)) for sigma in expected["sigma"]]
        t = torch.tensor(levels, dtype=torch.float64)
        expected.check("denoised", loaded.denoiser(expected["x"], t, cond).x0)
        one = loaded.denoiser(80 * expected["noise"], 1.0, cond).x0
    expected.check("onestep_sample", one.clamp(-1, 1))


@pytest.fixture(scope="module")
def upsampler(tmp_path_factory):
    return imported("guided_upsampler", "guided_diffusion", tmp_path_factory.mktemp("upsampler"), inside="upsampler.pt")


def test_an_upsampler_gives_what_its_code_gives(upsampler):
    expected, loaded = Expected("guided_upsampler"), model(upsampler, "ema")
    cond = loaded.condition({"label": expected["y"], "low_resolution": expected["low_resolution"]})
    with torch.no_grad():
        expected.check("model_output", loaded.denoiser.network(expected["x"], expected["timesteps"].float(), cond))
        expected.check("ddim5_sample_clipped", loaded.sampler(loaded.guided(), expected["x"], cond))


def test_an_upsampler_enlarges_given_images(upsampler, tmp_path):
    expected = Expected("guided_upsampler")
    pixels = (expected["low_resolution"] * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    run_script(f"scripts/sample.py run={upsampler} low_resolution={tmp_path} labels=[3,4] output={tmp_path / 'out'}")
    drawn = np.load(tmp_path / "out" / "samples.npz")["arr_0"]
    images = diffusion.load(upsampler).sample(2, labels=[3, 4], low_resolution=pixels / 127.5 - 1)
    assert drawn.shape == (2, 16, 16, 3)
    assert np.array_equal(drawn, images.permute(0, 2, 3, 1).numpy())
    one = tmp_path / "one"
    run_script(f"scripts/sample.py run={upsampler} low_resolution={tmp_path}/0.png num_samples=2 labels=3 output={one}")
    assert np.array_equal(np.load(one / "samples.npz")["arr_0"][0], drawn[0]), "sample i has image i mod n"


@pytest.mark.parametrize(
    ("request_of", "sentence"),
    [
        ("", "its data hold none to make small ones of; give low_resolution="),
        ("low_resolution={place}/nothing", "nothing is not there"),
        ("low_resolution={place}/text.png", "text.png cannot be read as an image"),
        ("low_resolution={place}", "cannot be read as an image"),
        ("low_resolution={place}/large.png labels=3", "the image of the condition is 32 x 32 where 16 x 16"),
    ],
)
def test_an_upsampler_without_small_images_is_refused(upsampler, tmp_path, capsys, request_of, sentence):
    (tmp_path / "text.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "large.png")
    with pytest.raises(pytest.fail.Exception, match="ended with 2"):
        run_script(f"scripts/sample.py run={upsampler} {request_of.format(place=tmp_path)}")
    assert sentence in capsys.readouterr().err


def test_other_runs_refuse_small_images(adm, tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(pytest.fail.Exception, match="ended with 2"):
        run_script(f"scripts/sample.py run={adm} low_resolution={tmp_path / 'a.png'}")
    assert "this run enlarges none" in capsys.readouterr().err
