"""What is exported is loaded by diffusers and draws the same; what comes back in has the same bytes."""

import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, UNet2DModel
from published import imported
from safetensors.torch import load_file
from scripts_in_process import run_script
from test_imported_run import save_pipeline
from tiny_kl import save_tiny

import diffusion
from diffusion.types import Cond

FAST = "trainer.max_steps=2 evaluation=none logger=csv ~callbacks.samples ~callbacks.progress trainer=cpu"


def trained(folder, *options):
    run_script(f"scripts/train.py experiment=none name=t paths.outputs={folder} {FAST} {' '.join(options)}")
    return next(folder.glob("t/*"))


@torch.no_grad()
def drawn(pipeline, noise, steps, labels=None):
    """The scheduler's own loop, without noise of its own."""
    x, scheduler, unet = noise, pipeline.scheduler, pipeline.unet
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        output = unet(x, t, class_labels=labels).sample[:, : x.shape[1]]
        x = scheduler.step(output, t, x).prev_sample
    return x


SHAPES = {
    "ddpm": ["network.variant=ddpm", "schedule=linear", "parameterization=epsilon", "spacing=uniform"],
    "adm": ["network.variant=adm", "network.scale_shift_norm=true", "network.resblock_updown=true", "spacing=trailing",
            "parameterization=velocity", "schedule=zero_snr"],
    "classes": ["conditioner=label", "conditioner.dim=24", "schedule=scaled_linear", "spacing=uniform",
                "spacing.offset=1", "sampler.final=first"],
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_diffusers_draws_the_same(shape, tmp_path):
    settings = ["network.channels=16", "network.norm_groups=4", "sampler=ddim", "guidance=none", *SHAPES[shape]]
    run = trained(tmp_path, *settings)
    run_script(f"scripts/export.py run={run} output={tmp_path / 'out'}")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "out")
    model, noise = diffusion.load(run), torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 7, 10]) if shape == "classes" else None
    cond = Cond() if labels is None else Cond(vector=model.conditioner.embedding.weight[labels])
    sampler = model.sampler.with_steps(5)
    ours = sampler(model.denoiser, noise, cond)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    theirs = drawn(pipeline, noise, 5, labels)
    assert float((ours - theirs).abs().max()) < 1e-4 * max(1.0, float(theirs.abs().max()))


@pytest.mark.slow
def test_the_ancestral_sampler_is_ddpms_scheduler(tmp_path):
    run = trained(tmp_path, "network.channels=16", "network.norm_groups=4", "sampler.variance=large")
    run_script(f"scripts/export.py run={run} output={tmp_path / 'out'}")
    scheduler = DiffusionPipeline.from_pretrained(tmp_path / "out").scheduler
    assert isinstance(scheduler, DDPMScheduler)
    assert scheduler.config.variance_type == "fixed_large"
    assert scheduler.config.clip_sample


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusers_unet2d_classcond", "diffusers_dit"])
def test_import_export_import_keeps_every_byte(name, tmp_path):
    run = imported(name, "diffusers", tmp_path, "'set=[sampler=ddim]'")
    run_script(f"scripts/export.py run={run} output={tmp_path / 'out'}")
    run_script(f"scripts/import.py format=diffusers path={tmp_path / 'out'} name=again paths.outputs={tmp_path}")
    before, after = (diffusion.load(folder).state_dict() for folder in (run, tmp_path / "imported" / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_folder_of_diffusers_comes_out_as_it_came_in(tmp_path):
    source = save_pipeline(tmp_path / "in")
    run_script(f"scripts/import.py format=diffusers path={source} name=x paths.outputs={tmp_path}")
    run_script(f"scripts/export.py run={tmp_path / 'imported/x'} output={tmp_path / 'out'} licence=mit")
    files = [folder / "unet" / "diffusion_pytorch_model.safetensors" for folder in (source, tmp_path / "out")]
    before, after = map(load_file, files)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    theirs, ours = (UNet2DModel.load_config(folder / "unet") for folder in (source, tmp_path / "out"))
    same = set(ours) - {"_diffusers_version", "_name_or_path"}
    assert {k: ours[k] for k in same} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in theirs.items() if k in same
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers")
    assert "license: mit" in card
    assert f"**Imported** from {source}" in card


@pytest.mark.slow
def test_safetensors_hold_every_tensor_and_the_config(tmp_path):
    run = trained(tmp_path)
    run_script(f"scripts/export.py run={run} format=safetensors output={tmp_path / 'out'} weights=raw")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    state = diffusion.load(run, weights="raw").state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[k], state[k]) for k in state)
    assert "digits (8 x 8" in (tmp_path / "out" / "README.md").read_text()
    run_script(f"scripts/import.py format=safetensors path={tmp_path / 'out'} name=again paths.outputs={tmp_path}")
    again = diffusion.load(tmp_path / "imported" / "again")
    assert all(torch.equal(again.state_dict()[k], state[k]) for k in state)
    assert torch.equal(again.sample(2, steps=2), diffusion.load(run, weights="raw").sample(2, steps=2))
    assert (tmp_path / "out" / "config.yaml").is_file()


@pytest.mark.slow
def test_what_diffusers_cannot_hold_is_refused(tmp_path, capsys):
    run = trained(
        tmp_path, "network=ddpmpp_cifar10", "network.channels=8", "network.channel_mult=[1,2]", "network.attention=[4]"
    )
    with pytest.raises(pytest.fail.Exception):
        run_script(f"scripts/export.py run={run} output={tmp_path / 'out'}")
    assert "use format=safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert json.loads((run / "status.json").read_text())["status"] == "finished"


def test_latents_go_out_with_what_decodes_them(tmp_path):
    coder = save_tiny(tmp_path / "kl", factor=2, image_channels=1)
    latent = f"autoencoder=kl autoencoder.pretrained={coder} autoencoder.factor=2 guidance=none"
    network = "network.channels=16 network.norm_groups=4 network.channel_mult=[1,1] network.attention=[2] sampler=ddim"
    run = trained(tmp_path, latent, network)
    run_script(f"scripts/export.py run={run} output={tmp_path / 'out'}")
    pipeline, model = DiffusionPipeline.from_pretrained(tmp_path / "out"), diffusion.load(run)
    assert type(pipeline).__name__ == "LDMPipeline"
    z = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    theirs = pipeline.vqvae.decode(z / pipeline.vqvae.config.scaling_factor).sample
    assert torch.allclose(model.decode(z), theirs, atol=1e-6)
