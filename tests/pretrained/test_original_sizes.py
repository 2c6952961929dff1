"""Files of the original codes at their real sizes, without a number in them: every name and shape that guided-diffusion
and latent diffusion write has its place here, and the parameters are those that their papers state."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path

import pytest
import torch
from conftest import config

from diffusion.experiment.build.build import build
from diffusion.experiment.task.import_config import lines
from diffusion.pretrained import formats
from diffusion.pretrained.base import NETWORK, converted

SHAPES = json.loads(lzma.decompress((Path(__file__).parents[1] / "fixtures" / "published_shapes.json.xz").read_bytes()))
"""By model: name -> shape, of the original code's own network on the meta device; and its commit."""
ADM = (
    "--class_cond True --diffusion_steps 1000 --learn_sigma True --attention_resolutions 32,16,8 "
    "--resblock_updown True --use_scale_shift_norm True "
)
FLAGS = {  # of the README
    "adm64": "--image_size 64 --noise_schedule cosine --num_channels 192 --num_head_channels 64 --num_res_blocks 3 "
    "--dropout 0.1 --use_new_attention_order True --use_fp16 True",
    "adm128": "--image_size 128 --noise_schedule linear --num_channels 256 --num_heads 4 --num_res_blocks 2",
    "adm256": "--image_size 256 --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2",
    "adm512": "--image_size 512 --noise_schedule linear --num_channels 256 --num_head_channels 64 --num_res_blocks 2",
}
LDM4 = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    {linear_start: 0.0015, linear_end: 0.0195, timesteps: 1000, image_size: 64, channels: 3, use_ema: false,
     first_stage_key: image, cond_stage_key: class_label, cond_stage_trainable: true, conditioning_key: crossattn,
     monitor: val/loss, num_timesteps_cond: 1, log_every_t: 200,
     unet_config: {target: ldm.modules.diffusionmodules.openaimodel.UNetModel, params: {
       image_size: 64, in_channels: 3, out_channels: 3, model_channels: 192, attention_resolutions: [8, 4, 2],
       num_res_blocks: 2, channel_mult: [1, 2, 3, 5], num_heads: 1, use_spatial_transformer: true,
       transformer_depth: 1, context_dim: 512}},
     first_stage_config: {target: ldm.models.autoencoder.VQModelInterface, params: {embed_dim: 3, n_embed: 8192,
       lossconfig: {target: torch.nn.Identity}, ddconfig: {double_z: false, z_channels: 3, resolution: 256,
         in_channels: 3, out_ch: 3, ch: 128, ch_mult: [1, 2, 4], num_res_blocks: 2, attn_resolutions: [],
         dropout: 0.0}}},
     cond_stage_config: {target: ldm.modules.encoders.modules.ClassEmbedder, params: {n_classes: 1001,
       embed_dim: 512, key: class_label}}}
"""
"""Of configs/latent-diffusion/cin256-v2.yaml."""
SIZES = [  # name, format, settings, parameters / 10^6 as stated
    ("adm64", "guided_diffusion", ADM + FLAGS["adm64"], 296),  # Dhariwal & Nichol 2021, table 11
    ("adm128", "guided_diffusion", ADM + FLAGS["adm128"], 422),
    ("adm256", "guided_diffusion", ADM + FLAGS["adm256"], 554),
    ("adm512", "guided_diffusion", ADM + FLAGS["adm512"], 559),
    ("ldm4", "compvis", LDM4, 400),  # Rombach et al. 2022, table 10
]


def sparse(path: Path, shapes: dict[str, list[int]]) -> Path:
    """A file of zeros that take no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name], end = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}, end + size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.mark.parametrize(("name", "format", "settings", "millions"), SIZES, ids=[row[0] for row in SIZES])
@pytest.mark.slow
def test_every_name_of_the_original_has_its_place(
    name: str, format: str, settings: str, millions: int, tmp_path: Path
) -> None:
    file, given = sparse(tmp_path / "model.safetensors", SHAPES[name]), tmp_path / "settings.txt"
    given.write_text(settings)
    published = formats.read(format, file, given)
    for part in published.parts:
        (tmp_path / part).mkdir()
    cfg = config(tmp_path, "experiment=none", *lines(published.overrides, tmp_path, "none", []))
    with torch.device("meta"):
        network = build(cfg.network)
    state, dropped = converted(published, network)  # refuses a name without a place, and another shape
    (own,) = state.values()
    assert not dropped
    assert {x.removeprefix(NETWORK) for x in own if x.startswith(NETWORK)} == set(network.state_dict())
    theirs = {x: shape for x, shape in SHAPES[name].items() if not x.startswith(("first_stage", "cond_stage"))}
    assert theirs.keys() <= {x for link in own.links.values() for x in link.theirs}
    count = sum(map(math.prod, theirs.values())) / 1e6
    assert abs(count - millions) < (1 if name == "ldm4" else 0.5), count  # "400M" there
