"""diffusers' UNet2DConditionModel: SDXL's embedding, both ways, and fields that are refused."""

import inspect
import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from published import FIXTURES, Expected, unpacked

from diffusion.denoiser import NetworkDenoiser
from diffusion.errors import ConfigError
from diffusion.network.unet import UNet
from diffusion.parameterization.epsilon import EpsilonParameterization
from diffusion.pretrained.base import NETWORK, Published, converted
from diffusion.pretrained.diffusers_folder import tensors_of
from diffusion.pretrained.latent.unet_condition import REFINER, SDXL, read_unet_condition
from diffusion.pretrained.latent.unet_condition_export import unet_condition_config
from diffusion.sampler.euler import EulerSampler
from diffusion.schedule.scaled_linear import ScaledLinearSchedule
from diffusion.spacing.uniform import UniformSpacing
from diffusion.types import Cond


def config_of(name):
    return json.loads((FIXTURES / name / "unet" / "config.json").read_text())


def built(overrides, links, tensors):
    keys = {key.partition(".")[2]: v for key, v in overrides.items() if key.startswith("network.")}
    size = {"in_channels": overrides["data.channels"], "resolution": overrides["data.resolution"]}
    with torch.device("meta"):
        network = UNet(**size, **keys)
    state, dropped = converted(Published(overrides, {"raw": tensors}, lambda net: links(net, tensors)), network)
    assert not dropped
    network.load_state_dict({k.removeprefix(NETWORK): v for k, v in state["raw"].items()}, assign=True)
    return network.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    tensors, _ = tensors_of(unpacked("diffusers_sdxl_unet", tmp_path_factory.mktemp("sdxl")) / "unet")
    overrides, links = read_unet_condition(config_of("diffusers_sdxl_unet"))
    return built(overrides, links, tensors), links, tensors


def condition(expected):
    size, crop, target = expected["time_ids"].split(2, dim=1)
    numbers = {"size": size, "crop": crop, "target_size": target}
    return Cond(vector=expected["text_embeds"], tokens=expected["context"], numbers=numbers)


def test_sdxl_gives_what_diffusers_gives(sdxl):
    expected, network = Expected("diffusers_sdxl_unet"), sdxl[0]
    cond = condition(expected)
    expected.check("model_output", network(expected["x"], expected["timesteps"].float(), cond))
    denoiser = NetworkDenoiser(network, ScaledLinearSchedule(), EpsilonParameterization())
    sampler = EulerSampler(5, UniformSpacing(1), prior="schedule")
    expected.check("euler5_latent", sampler(denoiser, expected["noise"], cond))


@pytest.mark.parametrize("name", ["diffusers_sdxl_unet", "diffusers_sd15"])
def test_every_tensor_is_written_as_it_was_read(tmp_path, name):
    tensors, _ = tensors_of(unpacked(name, tmp_path) / "unet")
    overrides, links = read_unet_condition(config_of(name))
    network = built(overrides, links, tensors)
    own, back = network.state_dict(), {}
    for link in links(network, {}):
        back |= dict(zip(link.theirs, link.how.write(own[link.ours.removeprefix(NETWORK)]), strict=True))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], value) for key, value in tensors.items())


def test_the_refiner_embeds_a_score():
    config = {**config_of("diffusers_sdxl_unet"), "projection_class_embeddings_input_dim": 16 + 5 * 8}
    overrides, _ = read_unet_condition(config, REFINER)
    assert overrides["network.cond_dim"] == 16
    assert overrides["network.numbers"] == ["size", "crop", "score"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_embed_type": "projection"}, "class_embed_type='projection', and only None"),
        ({"in_channels": 9}, "in_channels=9, and only 4"),
        ({"layers_per_block": [1, 2]}, "only one number for all levels"),
        ({"transformer_layers_per_block": [[1, 1], 1]}, "only one number for each of 2 levels"),
        ({"down_block_types": ["DownBlock2D", "SimpleCrossAttnDownBlock2D"]}, "type SimpleCrossAttnDownBlock2D"),
        ({"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}, "does not mirror"),
        ({"projection_class_embeddings_input_dim": 10}, "has no room"),
        ({"new_field": 1}, "not supported here: new_field"),
    ],
)
def test_what_is_not_supported_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        read_unet_condition({**config_of("diffusers_sdxl_unet"), **change})


PUBLISHED = {
    "act_fn": "silu", "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "center_input_sample": False,
    "conv_in_kernel": 3, "conv_out_kernel": 3, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0,
    "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32,
    "out_channels": 4, "resnet_time_scale_shift": "default", "sample_size": 128, "use_linear_projection": True,
}  # fmt: skip
BASE = {
    "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10], "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
SMALLER = {
    "attention_head_dim": [6, 12, 24, 24], "block_out_channels": [384, 768, 1536, 1536], "cross_attention_dim": 1280,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": 4, "projection_class_embeddings_input_dim": 2560,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "numbers", "count"), [(BASE, SDXL, 2_567_463_684), (SMALLER, REFINER, None)], ids=["base", "refiner"]
)
def test_published_sizes_have_every_tensor_of_diffusers(own, numbers, count):
    config = {**PUBLISHED, **own}
    overrides, links = read_unet_condition(config, numbers)
    keys = {key.partition(".")[2]: v for key, v in overrides.items() if key.startswith("network.")}
    with torch.device("meta"):
        due = UNet2DConditionModel.from_config(config).state_dict()
        network = UNet(in_channels=4, resolution=128, **keys)
    state = network.state_dict()
    found = {}
    for link in links(network, {}):
        found |= zip(link.theirs, link.how.write(state[link.ours.removeprefix(NETWORK)]), strict=True)
    assert {name: tuple(v.shape) for name, v in found.items()} == {name: tuple(v.shape) for name, v in due.items()}
    assert count is None or sum(v.numel() for v in state.values()) == count
    defaults = {name: p.default for name, p in inspect.signature(UNet).parameters.items()}
    again = unet_condition_config({"network": {**defaults, **keys, "in_channels": 4, "resolution": 128}})
    usual = {"center_input_sample", "conv_in_kernel", "conv_out_kernel", "mid_block_scale_factor"}
    assert {key: again[key] for key in config.keys() - usual} == {key: config[key] for key in config.keys() - usual}
