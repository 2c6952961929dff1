"""EDM2's network: published sizes, magnitudes, weights on the sphere."""

import pytest
import torch
from network_files import settings_of
from test_network import parameters

from diffusion.network.edm2_unet import EDM2UNet
from diffusion.network.magnitude import MagnitudeConv, MagnitudeFourier, joined, mixed, silu
from diffusion.types import Cond

SIZES = {"xs": 125, "s": 280, "m": 498, "l": 778, "xl": 1119, "xxl": 1523}
TINY = {"channels": 16, "channel_mult": [1, 2], "num_res_blocks": 1, "attention": [4], "head_channels": 16}


@pytest.mark.parametrize(("name", "millions"), SIZES.items())
def test_published_number_of_parameters(name: str, millions: int) -> None:
    """Of table 2, the map of 1000 labels included, which is the conditioner's here."""
    keys = settings_of(f"edm2_{name}")
    dim = 4 * keys["channels"]
    with torch.device("meta"):
        network = EDM2UNet(4, 64, cond_dim=dim, **keys)
    assert (parameters(network) + 1000 * dim) / 1e6 == pytest.approx(millions, abs=0.6)


@torch.no_grad()
def test_magnitudes_stay_one() -> None:
    a, b = torch.randn(8, 64, 16, 16), torch.randn(8, 32, 16, 16)
    conv = MagnitudeConv(64, 48, 3)
    conv.weight.data.mul_(7)  # the length of the weights does not count
    for out in (silu(a), mixed(a, torch.randn_like(a), 0.3), joined(a, b, 0.5), conv(a)[..., 1:-1, 1:-1]):
        assert float(out.square().mean().sqrt()) == pytest.approx(1.0, abs=0.02)
    assert float(MagnitudeFourier(256)(torch.randn(64)).square().mean().sqrt()) == pytest.approx(1.0, abs=0.05)


def test_training_keeps_weights_on_the_sphere() -> None:
    network = EDM2UNet(3, 8, cond_dim=12, **TINY)
    network.gain.data.fill_(1.0)
    conv = network.stem
    conv.weight.data.mul_(3)
    x, c_noise, cond = torch.randn(2, 3, 8, 8), torch.zeros(2), Cond(vector=torch.randn(2, 12))
    with torch.no_grad():
        before = network(x, c_noise, cond)
    assert float(conv.weight.square().mean().sqrt()) == pytest.approx(3.0, rel=0.1)
    out = network(x, c_noise, cond)
    torch.testing.assert_close(out, before, rtol=1e-3, atol=1e-3)
    out.square().mean().backward()
    assert float(conv.weight.detach().flatten(1).norm(dim=1).std()) < 1e-3
    gradient = conv.weight.grad.flatten(1)  # at right angles to the weights
    assert float((gradient * conv.weight.detach().flatten(1)).sum(1).abs().max()) < 1e-3 * float(gradient.norm())


def test_checkpointing_changes_nothing() -> None:
    torch.manual_seed(0)
    network = EDM2UNet(3, 8, **TINY)
    network.gain.data.fill_(1.0)
    x = torch.randn(2, 3, 8, 8)
    gradients = []
    for on in (False, True):
        network.checkpointing = on
        network.zero_grad()
        network(x, torch.zeros(2)).square().mean().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_other_conditions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"conditioner\.dim"):
        EDM2UNet(3, 8, **TINY)(torch.randn(1, 3, 8, 8), torch.zeros(1), Cond(vector=torch.zeros(1, 5)))
