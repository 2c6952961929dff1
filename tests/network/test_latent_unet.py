"""The U-Nets of latent diffusion: published sizes, refusals, and the vector and numbers of SDXL."""

import pytest
import torch
from network_files import settings_of

from diffusion.network.unet import UNet
from diffusion.types import Cond

SIZES = [  # file, side of latents, attention, token_dim, cond_dim, channels, parameters of the published configs
    ("sd15", 64, [64, 32, 16], 768, 0, 4, 859_520_964),
    ("sd21", 64, [64, 32, 16], 1024, 0, 4, 865_910_724),
    ("sdxl", 128, [64, 32], 2048, 1280, 4, 2_567_463_684),
    ("sdxl_refiner", 128, [64, 32], 1280, 1280, 4, 2_259_526_660),
    ("ldm4", 64, [32, 16, 8], 512, 0, 3, 400_920_579),
]


def tiny(**settings):
    keys = {"in_channels": 4, "resolution": 8, "channels": 16, "channel_mult": [1, 2], "num_res_blocks": 1}
    return UNet(**keys | {"attention": [4], "transformer_depth": [0, 2], "heads": 2, "token_dim": 6} | settings)


def awake(network):
    for i, p in enumerate(network.parameters()):
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(i))
    return network.requires_grad_(False).eval()


@pytest.mark.parametrize(("name", "side", "attention", "token_dim", "cond_dim", "channels", "count"), SIZES)
def test_published_number_of_parameters(name, side, attention, token_dim, cond_dim, channels, count):
    own = {"in_channels": channels, "resolution": side, "attention": attention}
    with torch.device("meta"):
        network = UNet(**settings_of(name) | own | {"token_dim": token_dim, "cond_dim": cond_dim})
    assert sum(p.numel() for p in network.parameters()) == count


def test_a_new_transformer_adds_nothing():
    network = tiny(token_dim=0)
    for layer in (network.down[2][1], network.middle[1]):
        x = torch.randn(1, layer.norm.num_channels, 4, 4)
        assert torch.equal(layer(x, None), x)


def test_tokens_that_do_not_count_change_nothing():
    network, x, level = awake(tiny()), torch.randn(2, 4, 8, 8), torch.tensor([3.0, 500.0])
    tokens = torch.randn(2, 5, 6)
    mask = torch.tensor([[True, True, True, False, False]] * 2)
    few = network(x, level, Cond(tokens=tokens[:, :3]))
    torch.testing.assert_close(network(x, level, Cond(tokens=tokens, mask=mask)), few)
    assert not torch.allclose(network(x, level, Cond(tokens=tokens)), few)


def test_vector_and_numbers_pass_one_map():
    names = ["size", "crop", "score"]
    network = awake(tiny(token_dim=0, cond_dim=5, numbers=names, joint_features=8)).double()
    assert network.embedding.joint[0].in_features == 5 + 8 * 5
    numbers = {"size": torch.tensor([[512.0, 640.0]]), "crop": torch.zeros(1, 2), "score": torch.tensor([6.0])}
    x, level, vector = torch.randn(1, 4, 8, 8).double(), torch.tensor([3.0]).double(), torch.randn(1, 5).double()
    out = network(x, level, Cond(vector=vector, numbers=numbers))
    for other in ({**numbers, "size": numbers["size"].flip(1)}, {**numbers, "score": torch.tensor([2.5])}, {}):
        assert not torch.allclose(network(x, level, Cond(vector=vector, numbers=other)), out)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transformer_depth": [1]}, "transformer_depth is a number, or one for each of 2 levels"),
        ({"transformer_depth": [1, 0]}, "transformer_depth is at least 1"),
        ({"heads": [1, 2, 4]}, "heads is a number, or one for each of 2 levels"),
        ({"heads": 3}, "cannot be split into 3 heads"),
        ({"guidance_features": 16}, "is among network.numbers, got 16"),
        ({"guidance_features": 5, "numbers": ["guidance"]}, "an even number of sinusoids"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)
