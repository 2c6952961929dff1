"""Models on latents with texts go out as pipelines of diffusers, which draw the same; and come back with every byte."""

from types import SimpleNamespace

import pytest
import torch
from conftest import CONF
from diffusers import DiffusionPipeline
from omegaconf import OmegaConf
from published import imported
from random_pipelines import refiner, sd3, sdxl, tokenizer_of, tower
from scripts_in_process import run_script
from transformers import AutoTokenizer, CLIPTextModel

import diffusion
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build
from diffusion.experiment.config.options import composed
from diffusion.pipeline.base import Request
from diffusion.pretrained.diffusers_scheduler import scheduler
from diffusion.pretrained.diffusers_scheduler_export import scheduler_config
from diffusion.pretrained.latent.sd3_transformer import sd3_config
from diffusion.pretrained.latent.text_export import write_clip
from diffusion.pretrained.latent.unet_condition_export import unet_condition_config
from diffusion.text_encoder.clip import CLIPTextEncoder

PROMPTS = ["a red heart", "two stars"]


def run_of(kind, folder):
    """The run folder of a published pipeline: a fixture's, or one with random weights."""
    if kind == "sd15":
        return imported("diffusers_sd15", "diffusers", folder)
    if kind == "compvis":
        return imported("compvis_sd_v1", "compvis", folder)
    makers = {"sdxl": sdxl, "refiner": refiner, "sd3": sd3}
    makers[kind](folder / "words").save_pretrained(folder / "there")
    run_script(f"scripts/import.py format=diffusers path={folder / 'there'} name={kind} paths.outputs={folder}")
    return folder / "imported" / kind


@torch.no_grad()
def drawn(pipe, noise, size, scale):
    """Images of the pipeline from this noise, in [-1, 1]; one after the other, as the base model's needs."""
    keys = {"num_inference_steps": 5, "guidance_scale": scale, "output_type": "pt"}
    if "Img2Img" in type(pipe).__name__:
        keys |= {"image": torch.zeros(1, 3, size, size), "strength": 1.0}
        pipe.scheduler.set_timesteps(5)
        noise = noise * pipe.scheduler.init_noise_sigma
    else:
        keys |= {"height": size, "width": size}
    images = [pipe(p, latents=noise[i : i + 1].clone(), **keys).images for i, p in enumerate(PROMPTS)]
    return torch.cat(images) * 2 - 1


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("sd15", "compvis", "refiner", "sd3")]


@pytest.mark.parametrize("kind", ["sdxl", *SLOW])
@pytest.mark.slow
def test_diffusers_draws_the_same_and_it_comes_back(kind, tmp_path):
    run = run_of(kind, tmp_path)
    run_script(f"scripts/export.py run={run} output={tmp_path / 'out'}")
    pipe, model = DiffusionPipeline.from_pretrained(tmp_path / "out"), diffusion.load(run)
    pipe.set_progress_bar_config(disable=True)
    size, scale = model.shape[1], model.guidance["classifier_free"].keywords["scale"]
    noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    due, again = (drawn(pipe, noise * each, size, scale) for each in (1, 1 + 1e-7))
    pipeline = model.pipeline()
    cond = pipeline.cond(torch.arange(2), 0, Request.of(2, text=PROMPTS))
    found = model.decode(model.sampler.with_steps(5)(pipeline.denoiser, noise, cond)).clamp(-1, 1)
    assert due.std() > 0.01
    assert float((found - due).abs().max()) < max(1e-4, 10 * float((again - due).abs().max()))
    run_script(f"scripts/import.py format=diffusers path={tmp_path / 'out'} name=again paths.outputs={tmp_path}")
    back = diffusion.load(tmp_path / "imported" / "again")
    before, after = model.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.frozen == back.frozen
    assert torch.equal(model.sample(2, text=PROMPTS, steps=2), back.sample(2, text=PROMPTS, steps=2))


TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
SCHEDULERS = [
    {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True,
     "prediction_type": "v_prediction", "clip_sample": False},
    {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1, "set_alpha_to_one": False},
    {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 1},
    {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "linspace", "prediction_type": "v_prediction"},
    {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "use_karras_sigmas": True},
    {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"},
    {"_class_name": "HeunDiscreteScheduler", "timestep_spacing": "trailing"},
    {"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "linspace", "use_karras_sigmas": True},
]  # fmt: skip


def settings_of(overrides):
    """The config of a run with these settings, resolved."""
    text = {True: "true", False: "false"}
    words = [f"{key}={text.get(v, v) if isinstance(v, bool) else v}" for key, v in overrides.items()]
    small = ["paths.run=x", "evaluation=none", "logger=csv", *([] if "guidance" in overrides else ["guidance=none"])]
    return OmegaConf.to_container(composed("train", CONF, [], [*small, *words]), resolve=True)


@pytest.mark.parametrize("there", SCHEDULERS, ids=lambda c: c["_class_name"])
def test_a_scheduler_goes_out_as_it_came_in(there):
    overrides = scheduler({**TABLE, **there}, latent=True)
    config = settings_of(overrides)
    model = SimpleNamespace(schedule=build(OmegaConf.create(config["schedule"])))
    assert scheduler(scheduler_config(model, config), latent=True) == overrides


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "rk45"}, "the run samples with rk45"),
        ({"sampler": "euler", "sampler.churn": 40.0}, "the run samples with euler and churn=40"),
        ({"sampler": "euler", "spacing": "trailing"}, "spacing=trailing and prior=schedule"),
        ({"sampler": "ddim", "sampler.eta": 0.5}, "the run samples with ddim and eta=0.5"),
        ({"sampler": "ddim", "spacing": "quadratic"}, "with ddim and spacing=quadratic"),
        ({"sampler": "pndm"}, "pndm and start=runge_kutta"),
        ({"schedule": "flow", "parameterization": "flow", "sampler": "euler"}, "rectified flow is sampled"),
        ({"schedule": "edm", "parameterization": "edm"}, "not for EDMSchedule"),
    ],
    ids=lambda value: "",
)
def test_samplers_without_a_scheduler_are_refused(change, message):
    config = settings_of(change)
    model = SimpleNamespace(schedule=build(OmegaConf.create(config["schedule"])))
    with pytest.raises(ConfigError, match=message):
        scheduler_config(model, config)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mask": True}, "mask=true"), ({"norm": False}, "norm=false"), ({"_target_": "x.T5TextEncoder"}, "reads a CLIP")],
)
def test_texts_that_a_pipeline_reads_otherwise_are_refused(change, message, tmp_path):
    node = {"_target_": "x.CLIPTextEncoder", "layer": -1, "norm": True, "pooled": "none", "mask": False, **change}
    with pytest.raises(ConfigError, match=message):
        write_clip(node, tmp_path, "", norm=True, pooled="none")


@pytest.mark.parametrize(
    ("words", "write", "message"),
    [
        (
            {"network": "sd15", "conditioner": "text", "network.resblock_updown": True},
            unet_condition_config,
            "no resampling in residual",
        ),
        ({"network": "sd15"}, unet_condition_config, "no transformers without tokens"),
        ({"network": "sdxl", "conditioner": "sdxl", "network.numbers": ["crop"]}, unet_condition_config, "as SDXL's"),
        ({"network": "mmdit_tiny", "network.numbers": ["to"]}, sd3_config, "SD3Transformer2DModel has no numbers"),
        ({"network": "mmdit_tiny"}, sd3_config, "has tokens and a vector of a text"),
    ],
    ids=lambda value: "",
)
def test_networks_that_diffusers_cannot_hold_are_refused(words, write, message):
    with pytest.raises(ConfigError, match=message):
        write(settings_of({"data": "none", "data.channels": 4, "data.resolution": 64, **words}))


@torch.no_grad()
def test_a_layer_before_the_last_goes_out_as_the_last_of_a_smaller_tower(tmp_path):
    """Stable Diffusion 2 reads it, after the final norm, of OpenCLIP's tower in the files of its own code."""
    there = tmp_path / "there"
    tower(16, 16, 0, hidden_act="gelu").save_pretrained(there)
    tokenizer_of(tmp_path / "words").save_pretrained(there)
    node = {"_target_": "x.CLIPTextEncoder", "pretrained": str(there), "layer": -2, "norm": True, "pooled": "none",
            "mask": False, "length": 20, "tokenizer": None}  # fmt: skip
    write_clip(node, tmp_path, "", norm=True, pooled="none")
    model = CLIPTextModel.from_pretrained(tmp_path / "text_encoder").eval()
    words = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = words(PROMPTS, padding="max_length", return_tensors="pt")["input_ids"]
    ours = CLIPTextEncoder(str(there), 16, length=20, layer=-2, mask=False)(PROMPTS)
    assert ids.shape == (2, 20)
    assert model.config.num_hidden_layers == 2
    torch.testing.assert_close(ours.tokens, model(ids).last_hidden_state)
