"""A whole folder of Stable Diffusion 3 with random weights, against diffusers' own pipeline."""

import json

import pytest
import torch
from random_pipelines import sd3
from scripts_in_process import run_script

import diffusion
from diffusion.errors import ConfigError
from diffusion.pretrained import formats

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
PROMPTS = ["a red heart", "two stars"]


@pytest.fixture(scope="module", params=["with T5", "without T5"])
def pipeline(request, tmp_path_factory):
    """The pipeline and its folder."""
    pipe = sd3(tmp_path_factory.mktemp("words"), request.param == "with T5")
    folder = tmp_path_factory.mktemp("pipeline")
    pipe.save_pretrained(folder / "sd3")
    return pipe, folder


@torch.no_grad()
def test_a_pipeline_gives_what_diffusers_gives(pipeline):
    pipe, folder = pipeline
    run_script(f"scripts/import.py format=diffusers path={folder / 'sd3'} name=sd3 paths.outputs={folder}")
    loaded = diffusion.load(folder / "imported" / "sd3", weights="ema")
    cond = loaded.condition({"text": PROMPTS})
    tokens, empty, vector, _ = pipe.encode_prompt(PROMPTS, None, None, negative_prompt=["", ""])
    torch.testing.assert_close(cond.tokens, tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cond.vector, vector, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cond.null.tokens, empty, rtol=1e-5, atol=1e-5)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def drawn(latents):
        keys = {"num_inference_steps": 4, "guidance_scale": 7.0, "output_type": "latent"}
        return pipe(PROMPTS, height=16, width=16, latents=latents.clone(), **keys).images

    due = drawn(noise)
    sensitivity = float((drawn(noise * (1 + 1e-7)) - due).abs().max())  # as that of the fixtures
    loaded.sampler.steps = 4
    found = loaded.sampler(loaded.guided(), noise, cond)
    error = float((found - due).abs().max())
    assert error < max(1e-5 * max(1.0, float(due.abs().max())), 10 * sensitivity)
    image = pipe.vae.decode(due / 1.5 + 0.06).sample
    assert float((loaded.decode(due) - image).abs().max()) < 1e-5 * max(1.0, float(image.abs().max()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, "text_encoder_2 is CLIPTextModel, and only"),
        ({"image_encoder": ["transformers", "SiglipVisionModel"]}, "a pipeline with image_encoder"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path, change, message):
    index = {"_class_name": "StableDiffusion3Pipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    clips = {f"text_encoder{n}": ["transformers", "CLIPTextModelWithProjection"] for n in ("", "_2")}
    network = {"transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **clips, **network, **change}))
    with pytest.raises(ConfigError, match=message):
        formats.read("diffusers", tmp_path, None)
