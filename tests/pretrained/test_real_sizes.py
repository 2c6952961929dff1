"""Published configurations at their real sizes, on the meta device: the parameters that are stated, and a place here of
the same shape for every key of diffusers' own class. Nothing is drawn, downloaded or computed."""

import diffusers
import pytest
import torch
from torch import nn

from diffusion.network.dit import DiT
from diffusion.network.mmdit import MMDiT
from diffusion.network.song_unet import SongUNet
from diffusion.network.unet import UNet
from diffusion.pretrained.base import NETWORK, Published, converted
from diffusion.pretrained.formats.diffusers import NETWORKS

DDPM = {
    "sample_size": 32, "block_out_channels": (128, 256, 256, 256), "layers_per_block": 2, "attention_head_dim": None,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6,
}  # fmt: skip
CONSISTENCY = {
    "sample_size": 64, "block_out_channels": (192, 384, 576, 768), "layers_per_block": 3, "attention_head_dim": 64,
    "down_block_types": ("ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3),
    "up_block_types": (*["AttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"), "num_class_embeds": 1000,
    "downsample_type": "resnet", "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip
SD_1 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SD_2 = {
    "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # fmt: skip
SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "cross_attention_dim": 2048, "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
XL_2 = {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "out_channels": 8, "sample_size": 32}
SD_3 = {
    "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64, "in_channels": 16,
    "out_channels": 16, "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}  # fmt: skip
NCSNPP = {
    "sample_size": 256, "block_out_channels": (128, 128, 256, 256, 256, 256, 256), "layers_per_block": 2,
    "down_block_types": (*["SkipDownBlock2D"] * 4, "AttnSkipDownBlock2D", *["SkipDownBlock2D"] * 2),
    "up_block_types": (*["SkipUpBlock2D"] * 2, "AttnSkipUpBlock2D", *["SkipUpBlock2D"] * 4),
    "time_embedding_type": "fourier", "mid_block_scale_factor": 2**0.5, "norm_num_groups": None, "norm_eps": 1e-6,
    "attention_head_dim": None, "center_input_sample": True,
}  # fmt: skip
CLASSES = {"_unet": UNet, "_song": SongUNet, "_dit": DiT, "_mmdit": MMDiT}
SIZES = [  # class of diffusers, config, width of the condition, parameters / 10^6 as stated
    ("UNet2DModel", DDPM, 0, 35.7),  # Ho et al. 2020, appendix B
    ("UNet2DModel", CONSISTENCY, 768, 296),  # ADM's network of ImageNet 64, Dhariwal & Nichol 2021, table 11
    ("UNet2DModel", NCSNPP, 0, None),
    ("UNet2DConditionModel", SD_1, 0, 860),
    ("UNet2DConditionModel", SD_2, 0, 866),
    ("UNet2DConditionModel", SDXL, 0, 2567),  # Podell et al. 2023, table 1: 2.6B
    ("DiTTransformer2DModel", XL_2, 1001, 675),  # Peebles & Xie 2023, table 1
    ("SD3Transformer2DModel", SD_3, 0, 2028),  # Esser et al. 2024: 2B
]


@pytest.mark.parametrize(
    ("kind", "config", "width", "millions"), SIZES, ids=["ddpm", "cd", "ncsnpp", "sd1", "sd2", "sdxl", "dit", "sd3"]
)
def test_every_key_of_diffusers_has_its_place(kind, config, width, millions):
    with torch.device("meta"):
        theirs = getattr(diffusers, kind)(**config)
        tensors = theirs.state_dict()
        overrides, links = NETWORKS[kind]({**theirs.config, "_class_name": kind})
        keys = {key.partition(".")[2]: value for key, value in overrides.items() if key.startswith("network.")}
        if kind == "DiTTransformer2DModel":
            keys["learned_variance"] = overrides["parameterization.learned_variance"]
        sides = {"in_channels": overrides["data.channels"], "resolution": overrides["data.resolution"]}
        own = CLASSES[overrides["network"]](**sides, **keys, **({"cond_dim": width} if width else {}))
    published = Published(overrides, {"ema": tensors}, lambda net: links(net, tensors))
    state, dropped = converted(published, own)  # which refuses a key without a place, or of another shape
    assert not dropped
    assert {name.removeprefix(NETWORK) for name in state["ema"] if name.startswith(NETWORK)} == set(own.state_dict())
    assert sum(x.numel() for x in tensors.values()) == sum(
        x.numel() for name in state["ema"] for x in state["ema"].sources(name)
    )
    repeated = sum(p.numel() for p in getattr(own, "embeddings", nn.Module()).parameters())  # in DiT's blocks there
    count = (sum(p.numel() for p in theirs.parameters()) - repeated) / 1e6
    assert millions is None or abs(count - millions) < (0.05 if millions < 100 else 0.6), count
