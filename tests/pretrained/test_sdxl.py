"""Whole folders of SDXL, base and refiner, with random weights, against diffusers' own pipelines."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_pipelines import refiner, sdxl
from scripts_in_process import run_script

import diffusion
from diffusion.errors import ConfigError
from diffusion.pipeline.base import Request
from diffusion.pretrained import formats

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
PROMPTS = ["a red heart", "two stars"]
KINDS = {"base": sdxl, "refiner": refiner}


class Case:
    """A pipeline of diffusers and what was imported of its folder."""

    def __init__(self, kind, folder):
        self.pipe = KINDS[kind](folder / "words")
        self.pipe.save_pretrained(folder / "there")
        run_script(f"scripts/import.py format=diffusers path={folder / 'there'} name={kind} paths.outputs={folder}")
        self.run = folder / "imported" / kind
        self.model = diffusion.load(self.run, weights="ema")

    def theirs(self, noise, steps, negative=None, **keys):
        """Latents, one after the other: of several, diffusers deals the null condition's sizes to the wrong rows."""
        more = {"image": torch.zeros(1, 3, 16, 16), "strength": 1.0} if self.pipe.text_encoder is None else {}
        more |= {} if more else {"height": 16, "width": 16}
        keys = {"guidance_scale": 5.0, "num_inference_steps": steps, "output_type": "latent", **more, **keys}
        self.pipe.scheduler.set_timesteps(steps)
        start = noise * self.pipe.scheduler.init_noise_sigma if "image" in keys else noise
        drawn = [
            self.pipe(prompt, latents=start[i : i + 1].clone(), negative_prompt=negative and negative[i], **keys).images
            for i, prompt in enumerate(PROMPTS)
        ]
        return torch.cat(drawn)

    def ours(self, noise, steps, **request):
        pipeline, index = self.model.pipeline(), torch.arange(2)
        cond = pipeline.cond(index, 0, Request.of(2, text=PROMPTS, **request))
        return self.model.sampler.with_steps(steps)(pipeline.denoiser, noise, cond)


@pytest.fixture(scope="module", params=["base", pytest.param("refiner", marks=pytest.mark.slow)])
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp(request.param))


NOISE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def same(found, due, again, least=1e-4):
    """again: what is due of inputs that differ by 1e-7."""
    sensitivity = float((again - due).abs().max())
    error = float((found - due).abs().max())
    assert error < max(least * max(1.0, float(due.abs().max())), 10 * sensitivity), error


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, {}),
        ({"negative": ["a star", "a heart"]}, {"negative": ["a star", "a heart"]}),
        (
            {"original_size": (30, 20), "crops_coords_top_left": (3, 1), "target_size": (24, 28),
             "negative_original_size": (5, 6), "negative_target_size": (7, 8),
             "negative_crops_coords_top_left": (2, 4)},
            {"numbers": {"size": (30, 20), "crop": (3, 1), "negative_size": (5, 6), "negative_crop": (2, 4)}},
        ),
    ],
    ids=["as they are", "a negative prompt", "other sizes"],
)  # fmt: skip
@torch.no_grad()
def test_five_guided_steps_are_those_of_diffusers(case, theirs, ours):
    if "numbers" in ours:
        base = case.pipe.text_encoder is not None
        more = {"target_size": (24, 28), "negative_target_size": (7, 8)} if base else {"score": 7.5}
        ours = {"numbers": {**ours["numbers"], **more}}
        theirs = {**theirs, **({} if base else {"aesthetic_score": 7.5})}
    due, again = (case.theirs(NOISE * scale, 5, **theirs) for scale in (1, 1 + 1e-7))
    same(case.ours(NOISE, 5, **ours), due, again)


@torch.no_grad()
def test_the_network_gives_what_diffusers_gives(case):
    """In float64 at levels and sizes of zero: diffusers computes sinusoids in float32, which are exact there."""
    cond = case.model.pipeline().cond(torch.arange(2), 0, Request.of(2, text=PROMPTS))
    names = case.model.conditioner.parts["sizes"].numbers
    told = torch.cat([cond.numbers[name].reshape(2, -1) for name in names], dim=1)
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3.0, 700.0])
    network, unet = case.model.denoiser.network, case.pipe.unet

    def both(x, t, told, cond, dtype):
        added = {"text_embeds": cond.vector, "time_ids": told}
        due = unet.to(dtype)(x, t, encoder_hidden_states=cond.tokens, added_cond_kwargs=added).sample
        return network.to(dtype)(x, t.to(dtype), cond), due

    found, due = both(x, t, told, cond, torch.float32)
    assert float((found - due).abs().max()) < 1e-5 * max(1.0, float(due.abs().max()))
    double = cond.map(lambda v: v.double() if v.is_floating_point() else v)
    double = replace(double, numbers={name: torch.zeros_like(v) for name, v in double.numbers.items()})
    found, due = both(x.double(), torch.zeros(2), torch.zeros_like(told).double(), double, torch.float64)
    network.float(), unet.float()
    assert float((found - due).abs().max()) < 1e-10 * max(1.0, float(due.abs().max()))


@torch.no_grad()
def test_images_and_condition_are_those_of_diffusers(case):
    tokens, negative, vector, empty = case.pipe.encode_prompt(PROMPTS)
    cond = case.model.pipeline().cond(torch.arange(2), 0, Request.of(2, text=PROMPTS))
    for ours, theirs in zip((cond.tokens, cond.vector, cond.null.tokens, cond.null.vector),
                            (tokens, vector, negative, empty), strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    image = case.pipe.vae.decode(z / 0.13).sample
    assert float((case.model.decode(z) - image).abs().max()) < 1e-5 * max(1.0, float(image.abs().max()))


def test_a_script_draws_with_sizes(case):
    words = f"run={case.run} num_samples=2 sampler.steps=2 'text=[a heart,a star]' 'numbers={{size:[20,30]}}'"
    run_script(f"scripts/sample.py {words} output={case.run}/with_sizes negative=photo")
    told = json.loads((case.run / "with_sizes" / "settings.json").read_text())
    assert told["numbers"] == {"size": [20, 30]}
    own = case.model.sample(2, text=["a heart", "a star"], negative="photo", steps=2, numbers={"size": (20, 30)})
    other = case.model.sample(2, text=["a heart", "a star"], negative="photo", steps=2)
    rows = torch.from_numpy(np.load(case.run / "with_sizes" / "samples.npz")["arr_0"])
    assert torch.equal(rows.permute(0, 3, 1, 2), own)
    assert not torch.equal(own, other)


def test_numbers_that_no_part_reads_are_refused(case):
    with pytest.raises(ValueError, match="numbers has fps, and this model reads size, crop"):
        case.model.sample(1, text="a", steps=1, numbers={"fps": 7})
    with pytest.raises(ValueError, match=r"the column 'size' has the shape \(16, 3\), and \(16, 2\) is due"):
        case.model.sample(1, text="a", steps=1, numbers={"size": (1, 2, 3)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, "text_encoder_2 is CLIPTextModel, and only"),
        ({"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}, "a pipeline with image_encoder"),
    ],
)
def test_what_is_not_supported_is_refused(tmp_path, change, message):
    index = {"_class_name": "StableDiffusionXLPipeline", "scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    network = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    words = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"], "text_encoder": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **network, **words, **change}))
    with pytest.raises(ConfigError, match=message):
        formats.read("diffusers", tmp_path, None)
