"""Folders of diffusers against what diffusers computed with them."""

import json

import pytest
import torch
from published import FIXTURES, Expected, imported, model

import diffusion
from diffusion.errors import ConfigError
from diffusion.pretrained import formats
from diffusion.pretrained.latent.sd3_transformer import sd3
from diffusion.sampler.ddim import DDIMSampler
from diffusion.spacing.uniform import UniformSpacing
from diffusion.types import Cond


def condition(loaded, expected, labels):
    """Of classes, the number after the last being none."""
    if labels is None:
        return loaded.condition({})
    return Cond(vector=loaded.conditioner.embedding.weight[expected[labels]])


@torch.no_grad()
def output(loaded, expected, labels=None):
    cond = condition(loaded, expected, labels)
    return loaded.denoiser.network(expected["x"], expected["timesteps"].float(), cond)


@torch.no_grad()
def five(loaded, expected, labels=None, guided=False, final="clean", offset=0):
    cond = condition(loaded, expected, labels)
    sampler = DDIMSampler(5, UniformSpacing(offset), final=final)
    return sampler(loaded.guided() if guided else loaded.denoiser, expected["noise"], cond)


def test_ddpm_of_old_names(tmp_path):
    expected = Expected("diffusers_ddpm_cifar10")
    loaded = model(imported("diffusers_ddpm_cifar10", "diffusers", tmp_path), "ema")
    expected.check("model_output", output(loaded, expected))
    expected.check("ddim5_sample", five(loaded, expected))
    loaded.guidance["clip"].keywords["keep_eps"] = True  # DDIM's, where this folder's scheduler is DDPM's
    expected.check("ddim5_clipped_sample", five(loaded, expected, guided=True))


def test_a_conditional_unet_with_a_learned_variance(tmp_path):
    expected = Expected("diffusers_unet2d_classcond")
    loaded = model(imported("diffusers_unet2d_classcond", "diffusers", tmp_path), "ema")
    expected.check("model_output", output(loaded, expected, "class_labels"))
    expected.check("ddim5_sample", five(loaded, expected, "class_labels"))


def test_a_consistency_model(tmp_path):
    expected = Expected("diffusers_consistency")
    loaded = model(imported("diffusers_consistency", "diffusers", tmp_path), "ema")
    expected.check("model_output", output(loaded, expected, "class_labels"))
    cond = loaded.condition({"label": expected["class_labels"]})
    sample = loaded.sampler(
        loaded.guided(), 80 * expected["noise"], cond
    )  # the pipeline scales the latents it is given
    expected.check("onestep_sample", sample.permute(0, 2, 3, 1) / 2 + 0.5)


def test_a_dit_and_its_autoencoder(tmp_path):
    expected = Expected("diffusers_dit")
    loaded = model(imported("diffusers_dit", "diffusers", tmp_path), "ema")
    expected.check("model_output", output(loaded, expected, "class_labels"))
    expected.check("ddim5_latent", five(loaded, expected, "class_labels"))
    expected.check("decoded", loaded.decode(expected["x"]))


def test_a_latent_model_and_its_codebook(tmp_path):
    expected = Expected("diffusers_ldm_uncond")
    loaded = model(imported("diffusers_ldm_uncond", "diffusers", tmp_path), "ema")
    expected.check("model_output", output(loaded, expected))
    expected.check("ddim5_latent", five(loaded, expected, final="first", offset=1))
    coder = loaded.autoencoder
    assert coder.scale == 0.18215
    expected.check("encoded", coder.encode(expected["image"]) / coder.scale)
    expected.check("decoded", coder.decode(expected["x"] * coder.scale))


def test_a_tiny_autoencoder(tmp_path):
    expected = Expected("diffusers_autoencoder_tiny")
    coder = diffusion.load(imported("diffusers_autoencoder_tiny", "diffusers", tmp_path))
    expected.check("encoded", coder.encode(expected["image"]))
    expected.check("decoded", coder.decode(expected["z"]))


@torch.no_grad()
def test_the_transformer_of_stable_diffusion_3(tmp_path):
    """Latents of half the size that it is built for; tokens and a vector are given, as no text encoder comes along."""
    expected = Expected("diffusers_sd3_transformer")
    loaded = model(imported("diffusers_sd3_transformer", "diffusers", tmp_path), "ema")
    cond = Cond(tokens=expected["context"], vector=expected["pooled"])
    expected.check("model_output", loaded.denoiser.network(expected["x"], expected["timesteps"], cond))
    loaded.sampler.steps = 5
    expected.check("flow5_latent", loaded.sampler(loaded.guided(), expected["noise"], cond))


@torch.no_grad()
def test_the_unet_of_sdxl_without_its_pipeline(tmp_path):
    expected = Expected("diffusers_sdxl_unet")
    loaded = model(imported("diffusers_sdxl_unet", "diffusers", tmp_path), "ema")
    size, crop, target = expected["time_ids"].split(2, dim=1)
    numbers = {"size": size, "crop": crop, "target_size": target}
    cond = Cond(vector=expected["text_embeds"], tokens=expected["context"], numbers=numbers)
    expected.check("model_output", loaded.denoiser.network(expected["x"], expected["timesteps"].float(), cond))
    loaded.sampler.steps = 5
    expected.check("euler5_latent", loaded.sampler(loaded.guided(), expected["noise"], cond))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption_projection_dim": 48}, "caption_projection_dim=48, and only 32"),
        ({"out_channels": 8}, "out_channels=8, and only None or 4"),
        ({"qk_norm": "layer_norm"}, "qk_norm='layer_norm', and only None or rms_norm"),
        ({"new_field": 1}, "not supported here: new_field"),
    ],
)
def test_transformers_that_are_not_supported(change, message):
    config = json.loads((FIXTURES / "diffusers_sd3_transformer" / "transformer" / "config.json").read_text())
    with pytest.raises(ConfigError, match=message):
        sd3({**config, **change})


def test_folders_without_an_index(tmp_path):
    network, other = tmp_path / "transformer", tmp_path / "vae"
    network.mkdir()
    (network / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    with pytest.raises(ConfigError, match="is a FluxTransformer2DModel, which is not supported"):
        formats.read("diffusers", tmp_path, None)
    other.mkdir()
    (other / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"has vae, and no model_index\.json"):
        formats.read("diffusers", tmp_path, None)
