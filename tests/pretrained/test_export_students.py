"""Students of few steps go out as pipelines of diffusers, which draw the same; what cannot go out is one sentence."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import ConsistencyModelPipeline, DDPMPipeline, LatentConsistencyModelPipeline
from omegaconf import OmegaConf
from published import imported
from scripts_in_process import run_script
from test_export import trained
from test_export_pipelines import settings_of

import diffusion
from diffusion.errors import ConfigError
from diffusion.experiment.build.build import build
from diffusion.guidance.distilled import DistilledGuidance
from diffusion.pipeline.base import Request
from diffusion.pretrained import diffusers_export
from diffusion.pretrained.diffusers_scheduler_export import scheduler_config
from diffusion.sampler.consistency import ConsistencySampler
from diffusion.spacing.trailing import TrailingSpacing
from diffusion.types import Cond


class Same:
    """Noise of one generator, for both: each draw is the next one of it."""

    def __init__(self):
        self.random = torch.Generator().manual_seed(5)

    def like(self, x):
        return torch.randn(x.shape, generator=self.random)


@torch.no_grad()
def drawn(model, noise, steps, cond, denoiser=None):
    sampler = ConsistencySampler(steps, TrailingSpacing())
    return sampler(denoiser or model.guided(), noise, cond, randn_like=Same().like)


@pytest.mark.slow
def test_a_consistency_model_draws_the_same_and_comes_back(tmp_path):
    """A published one, with classes, in one and two steps."""
    run = imported("diffusers_consistency", "diffusers", tmp_path)
    run_script(f"scripts/export.py run={run} output={tmp_path / 'out'}")
    pipe, model = ConsistencyModelPipeline.from_pretrained(tmp_path / "out"), diffusion.load(run)
    pipe.set_progress_bar_config(disable=True)
    labels = torch.tensor([0, 2])
    noise = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    for steps in (1, 2, 4):
        ours = drawn(model, noise, steps, Cond(vector=model.conditioner.embedding.weight[labels]))
        theirs = pipe(
            2, labels.tolist(), num_inference_steps=steps, generator=Same().random, latents=noise, output_type="pt"
        ).images
        assert theirs.std() > 0.01
        torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, atol=1e-4, rtol=0)
    run_script(f"scripts/import.py format=diffusers path={tmp_path / 'out'} name=again paths.outputs={tmp_path}")
    before, after = (diffusion.load(folder).state_dict() for folder in (run, tmp_path / "imported" / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.slow
@pytest.mark.parametrize("table", [False, True], ids=["edm", "table"])
@torch.no_grad()
def test_a_student_that_was_trained_here_draws_the_same(table, tmp_path):
    """By the steps of diffusers' own scheduler: on EDM's noise, and on a table of betas by latent consistency's."""
    keys = ["network.channels=16", "network.norm_groups=4", "sampler=consistency", "spacing=trailing"]
    levels = "schedule=linear parameterization=epsilon" if table else "schedule=edm parameterization=consistency"
    keys += [
        levels,
        "objective=simple" if table else "module.model.denoiser.time_scale=1000 objective=consistency_training",
    ]
    run = trained(tmp_path, *keys, "sampler.steps=2")
    run_script(f"scripts/export.py run={run} output={tmp_path / 'out'}")
    pipe = (DDPMPipeline if table else ConsistencyModelPipeline).from_pretrained(tmp_path / "out")
    model, same = diffusion.load(run), Same()
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x, scheduler = noise * pipe.scheduler.init_noise_sigma, pipe.scheduler
    scheduler.set_timesteps(2)
    for t in scheduler.timesteps:
        output = pipe.unet(scheduler.scale_model_input(x, t), t).sample
        x = scheduler.step(output, t, x, generator=same.random).prev_sample
    torch.testing.assert_close(drawn(model, noise, 2, Cond()), x, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_latent_consistency_model_is_told_the_same_scale(tmp_path):
    """Stable Diffusion's tiny fixture as a student that embeds the scale, in one and two steps."""
    model = diffusion.load(imported("diffusers_sd15", "diffusers", tmp_path))
    config, before = model.config, model.denoiser.network
    config["network"] |= {"numbers": ["guidance"], "guidance_features": 16}
    network = build(OmegaConf.create(config["network"])).eval()
    network.load_state_dict({**network.state_dict(), **before.state_dict()})
    x, level = torch.randn(2, *model.latent_shape), torch.tensor([900.0, 3.0])
    cond = Cond(tokens=torch.randn(2, 4, config["network"]["token_dim"]))
    told = Cond(tokens=cond.tokens, numbers={"guidance": torch.tensor([2.0, 7.5])})
    assert torch.equal(network(x, level, told), before(x, level, cond)), "it starts as the network that is not told"
    torch.nn.init.normal_(network.embedding.guidance.weight, std=0.1)
    model.denoiser.network = network
    config["sampler"] = {"_target_": "diffusion.sampler.consistency.ConsistencySampler", "steps": 2, "times": None,
                         "spacing": {"_target_": "diffusion.spacing.trailing.TrailingSpacing"}}  # fmt: skip
    config["guidance"] = {}
    diffusers_export.write(model, config, tmp_path)
    pipe = LatentConsistencyModelPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.unet.config.time_cond_proj_dim == 16
    noise = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    cond = model.pipeline().cond(torch.arange(1), 0, Request.of(1, text=["a red heart"]))
    side = model.shape[1]
    made = []
    for steps, scale in ((1, 3.0), (2, 3.0), (2, 7.5)):
        ours = drawn(model, noise, steps, cond, DistilledGuidance(model.denoiser, scale, [1.0, 10.0]))
        theirs = pipe(
            "a red heart", height=side, width=side, num_inference_steps=steps, guidance_scale=scale, latents=noise,
            generator=Same().random, output_type="latent", original_inference_steps=1000,
        ).images  # fmt: skip
        torch.testing.assert_close(ours, theirs, atol=1e-4 * max(1.0, float(theirs.abs().max())), rtol=0)
        made.append(theirs)
    assert float((made[1] - made[2]).abs().max()) > 1e-3, "the scale is told"
    config["sampler"]["_target_"] = "diffusion.sampler.ddim.DDIMSampler"
    config["sampler"]["eta"] = 0.0
    with pytest.raises(ConfigError, match="steps with LCMScheduler, and this run samples as DDIMScheduler"):
        diffusers_export.write(model, config, tmp_path / "other")


EDM = {"schedule": "edm", "parameterization": "consistency", "module.model.denoiser.time_scale": 1000.0}
STEPS = {"sampler": "consistency", "sampler.steps": 2, "spacing": "trailing"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({**EDM, "module.model.denoiser.time_scale": 1.0}, r"time_scale=1000 .*and this is 1"),
        ({**EDM, "parameterization": "edm"}, "one sigma_min, .* sample with one step"),
        ({**EDM, "parameterization": "velocity"}, "the target consistency or edm, and this is velocity"),
        ({**EDM, "spacing": "karras"}, "samples at the times 1, .* even ones"),
        ({**EDM, "sampler.times": "[0.9,0.4]"}, "a first step at sigma_max"),
        ({**EDM, "sampler.steps": 11}, "a number that divides 840"),
        ({**EDM, "guidance": "clip", "guidance.clip.high": 2.0}, r"a range of \[-1, 1\]"),
        ({"schedule": "linear", "spacing": "karras"}, "of a number of steps that divides 1000"),
        ({"schedule": "linear", "sampler.steps": 3}, "of a number of steps that divides 1000"),
        ({"schedule": "trig", "parameterization": "edm"}, "not for TrigSchedule with edm"),
    ],
    ids=lambda value: "",
)
def test_students_without_a_scheduler_are_refused(change, message):
    config = settings_of({**STEPS, **change})
    parts = (build(OmegaConf.create(config[room])) for room in ("schedule", "sampler"))
    with pytest.raises(ConfigError, match=message):
        scheduler_config(SimpleNamespace(**dict(zip(("schedule", "sampler"), parts, strict=True))), config)


def test_one_step_of_edms_target_is_the_scheduler_without_a_least_noise():
    config = settings_of({**STEPS, **EDM, "parameterization": "edm", "sampler.steps": 1})
    parts = {room: build(OmegaConf.create(config[room])) for room in ("schedule", "sampler")}
    assert scheduler_config(SimpleNamespace(**parts), config)["sigma_min"] == 0.0
