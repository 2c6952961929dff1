"""diffusers' U-Nets of many shapes, with random weights: the same outputs here."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from scripts_in_process import run_script

import diffusion
from diffusion.types import Cond

A, D, R = "AttnDownBlock2D", "DownBlock2D", "ResnetDownsampleBlock2D"
UP = {A: "AttnUpBlock2D", D: "UpBlock2D", R: "ResnetUpsampleBlock2D"}
SHAPES = {
    "attention everywhere, three blocks": {"blocks": [A, A], "layers_per_block": 3, "attention_head_dim": 4},
    "one head": {"blocks": [D, A, D], "attention_head_dim": None, "flip_sin_to_cos": False, "freq_shift": 1},
    "no middle attention": {"blocks": [D, D], "add_attention": False, "downsample_padding": 0},
    "resnet resampling": {"blocks": [R, R], "downsample_type": "resnet", "upsample_type": "resnet"},
    "scale and shift": {"blocks": [D, A], "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
    "scale and shift, middle without norm": {"blocks": [D, A], "resnet_time_scale_shift": "scale_shift"},
    "classes": {"blocks": [D, A], "num_class_embeds": 7},
    "odd widths": {"blocks": [D, A, A], "block_out_channels": (16, 24, 40), "norm_eps": 1e-3},
    "one level": {"blocks": [A], "block_out_channels": (16,)},
    "four channels of large images": {"blocks": [D, A], "in_channels": 4, "out_channels": 4, "sample_size": 32},
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_unet_of_this_shape_gives_the_same(name, tmp_path):
    options = {"sample_size": 16, "norm_num_groups": 4, "layers_per_block": 1, "attention_head_dim": 8} | SHAPES[name]
    down = options.pop("blocks")
    widths = options.pop("block_out_channels", (16, 32, 32)[: len(down)])
    torch.manual_seed(0)
    unet = UNet2DModel(
        block_out_channels=widths,
        down_block_types=down,
        up_block_types=[UP[kind] for kind in reversed(down)],
        **options,
    ).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    unet.save_pretrained(tmp_path / "m")
    DDPMScheduler(clip_sample=False).save_pretrained(tmp_path / "m" / "scheduler")
    run_script(f"scripts/import.py format=diffusers path={tmp_path / 'm'} name=x paths.outputs={tmp_path}")
    loaded = diffusion.load(tmp_path / "imported" / "x")
    x, t = torch.randn(2, unet.config.in_channels, 16, 16), torch.tensor([3, 977])
    labels = torch.tensor([2, 6]) if "num_class_embeds" in options else None
    cond = Cond() if labels is None else loaded.condition({"label": labels})
    with torch.no_grad():
        theirs = unet(x, t, class_labels=labels).sample
        ours = loaded.denoiser.network(x, t.float(), cond)
    assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


def test_a_sampler_of_another_scheduler_is_the_runs(tmp_path):
    UNet2DModel(sample_size=8, block_out_channels=(8,), down_block_types=[D], up_block_types=[UP[D]], norm_num_groups=4,
                layers_per_block=1).save_pretrained(tmp_path / "m")  # fmt: skip
    DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
                  thresholding=True, sample_max_value=2.0).save_pretrained(tmp_path / "m" / "scheduler")  # fmt: skip
    run_script(f"scripts/import.py format=diffusers path={tmp_path / 'm'} name=x paths.outputs={tmp_path}")
    loaded = diffusion.load(tmp_path / "imported" / "x")
    assert type(loaded.schedule).__name__ == "ZeroSNRSchedule"
    assert type(loaded.denoiser.parameterization).__name__ == "VelocityParameterization"
    assert loaded.config["guidance"]["dynamic_threshold"]["highest"] == 2.0
    assert loaded.sample(2, steps=3).shape == (2, 3, 8, 8)
