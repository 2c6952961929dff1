"""Numbers of a condition (a second time, a guidance scale, a size): every network embeds those that it declares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from diffusion.network.base import Network
from diffusion.network.dit import DiT
from diffusion.network.embedding import sinusoids
from diffusion.network.mlp import MLP
from diffusion.network.mmdit import MMDiT
from diffusion.network.song_unet import SongUNet
from diffusion.network.unet import UNet
from diffusion.types import Cond

LEVELS = {"channels": 16, "channel_mult": [1, 2], "num_res_blocks": 1, "attention": [4]}
BUILD = {
    "unet": partial(UNet, 1, 8, **LEVELS),
    "adm": partial(UNet, 1, 8, variant="adm", **LEVELS),
    "song": partial(SongUNet, 1, 8, dropout=0.0, **LEVELS),
    "ncsnpp": partial(SongUNet, 1, 8, dropout=0.0, taps=[1, 3, 3, 1], fourier_scale=16.0, **LEVELS),
    "dit": partial(DiT, 1, 8, width=32, depth=2, heads=2),
    "mmdit": partial(MMDiT, 1, 8, width=32, depth=2, heads=2),
    "mlp": partial(MLP, 1, 8, width=32, depth=2),
}
EACH = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD.keys())
X, C_NOISE = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 700.0])


def numbers() -> dict[str, torch.Tensor]:
    return {
        "to": torch.tensor([1.0, 2.0]),
        "guidance": torch.tensor([1.5, 7.5]),
        "size": torch.tensor([[64, 32], [8, 8]]),
    }


def awake(network: Network) -> Network:
    """The zero-initialised ends of all branches but those of the numbers made random."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not parameter.any() and "_embedding" not in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return network


@EACH
def test_a_network_with_numbers_starts_as_the_one_without(build: Callable[..., Network]) -> None:
    """As a student that starts from its teacher's weights: bit for bit, and with a gradient."""
    teacher, student = awake(build()).eval(), build(numbers=["to", "guidance", "size"]).eval()
    missing = student.load_state_dict(teacher.state_dict(), strict=False)
    assert missing.missing_keys
    assert not missing.unexpected_keys
    assert student.numbers == ("to", "guidance", "size")
    with_numbers = student(X, C_NOISE, Cond(numbers=numbers()))
    assert torch.equal(with_numbers, teacher(X, C_NOISE, Cond()))
    with_numbers.square().sum().backward()
    for name, parameter in student.named_parameters():
        if "_embedding.linear2" in name:
            assert parameter.grad is not None
            assert parameter.grad.any(), name


@EACH
def test_each_number_counts_once_it_is_learned(build: Callable[..., Network]) -> None:
    network = awake(build(numbers=["to", "guidance", "size"])).eval()
    for name, parameter in network.named_parameters():
        if "_embedding.linear2" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    given = numbers()
    with torch.no_grad():
        base = network(X, C_NOISE, Cond(numbers=given))
        for name, value in given.items():
            changed = network(X, C_NOISE, Cond(numbers={**given, name: value * 2}))
            assert not torch.allclose(base, changed), name
            lacking = network(X, C_NOISE, Cond(numbers={k: v for k, v in given.items() if k != name}))
            assert not torch.allclose(base, lacking), name
        turned = network(X, C_NOISE, Cond(numbers={**given, "size": given["size"].flip(1)}))
        assert torch.allclose(base[1], turned[1])
        assert not torch.allclose(base[0], turned[0]), "height and width are different inputs"


@EACH
def test_a_number_that_is_not_embedded_is_refused(build: Callable[..., Network]) -> None:
    with pytest.raises(ValueError, match=r"set network\.numbers=\[to,guidance\]"):
        build(numbers=["to"])(X, C_NOISE, Cond(numbers={"guidance": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"network\.numbers is a list"):
        build(numbers="to")
    with pytest.raises(ValueError, match="'size' of a condition has 2 components"):
        build(numbers=["size"])(X, C_NOISE, Cond(numbers={"size": torch.ones(2)}))


def test_the_sinusoids_are_those_of_sdxl() -> None:
    """Each component its own 256 features, as diffusers embeds the six numbers of SDXL."""
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    values = torch.tensor([1024.0, 768.0, 0.0, 128.0, 1024.0, 1024.0])
    theirs = embeddings.get_timestep_embedding(values, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sinusoids(values, 128, shift=0, sine_first=False), theirs)


def test_networks_that_read_no_image_or_tokens_refuse_them() -> None:
    for name in ("dit", "mmdit", "mlp"):
        with pytest.raises(ValueError, match="reads no condition image"):
            BUILD[name]()(X, C_NOISE, Cond(image=X))
    with pytest.raises(ValueError, match="condition tokens of width 0"):
        BUILD["mlp"]()(X, C_NOISE, Cond(tokens=torch.zeros(2, 3, 4)))
