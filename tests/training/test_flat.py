"""Adam on one long tensor: the updates, the checkpoint and the names are those of Adam on many."""

import pytest
import torch

from diffusion.network.unet import UNet
from diffusion.training.clip import clip_by_norm
from diffusion.training.flat import Buffer, FlatAdam
from diffusion.types import Cond


def small(memory_format="contiguous"):
    torch.manual_seed(0)
    return UNet(1, 8, channels=8, channel_mult=[1, 2], num_res_blocks=1, attention=[4], memory_format=memory_format)


def steps(network, optimizer, count, first=0):
    for number in range(first, first + count):
        draws = torch.Generator().manual_seed(number)
        x = torch.randn(2, 1, 8, 8, generator=draws)
        network(x, torch.tensor([3.0, 500.0]), Cond()).sub(1).square().mean().backward()
        clip_by_norm(optimizer, list(network.parameters()), 0.5)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_the_updates_are_those_of_the_optimizer_given(make, memory_format):
    settings = {"lr": 1e-3, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1, "fused": True}
    networks = small(memory_format), small(memory_format)
    plain = make(networks[0].parameters(), **settings)
    flat = FlatAdam(make(networks[1].parameters(), **settings))
    strides = [p.stride() for p in networks[0].parameters()]
    for network, optimizer in zip(networks, (plain, flat), strict=True):
        steps(network, optimizer, 4)
    torch.testing.assert_close(networks[1].state_dict(), networks[0].state_dict(), rtol=1e-4, atol=1e-6)
    assert [p.stride() for p in networks[1].parameters()] == strides
    mine, theirs = flat.state_dict(), plain.state_dict()
    torch.testing.assert_close(mine["state"], theirs["state"], rtol=1e-3, atol=1e-6)
    assert mine["param_groups"] == theirs["param_groups"]


def test_a_checkpoint_goes_on_to_the_same_bits_and_is_read_by_the_plain_optimizer(tmp_path):
    whole, cut = small(), small()
    settings = {"lr": 1e-2, "eps": 1e-3, "fused": True}  # biases before a norm have no gradient but rounding errors
    undisturbed, stopped = (FlatAdam(torch.optim.Adam(n.parameters(), **settings)) for n in (whole, cut))
    steps(whole, undisturbed, 5)
    steps(cut, stopped, 2)
    torch.save([cut.state_dict(), stopped.state_dict()], tmp_path / "state")
    for kind in ("flat", "plain"):
        weights, moments = torch.load(tmp_path / "state", weights_only=True)
        network = small()
        network.load_state_dict(weights)
        optimizer = torch.optim.Adam(network.parameters(), **settings)
        optimizer = FlatAdam(optimizer) if kind == "flat" else optimizer
        optimizer.load_state_dict(moments)
        steps(network, optimizer, 3, first=2)
        tolerance = {"rtol": 0, "atol": 0} if kind == "flat" else {"rtol": 1e-3, "atol": 1e-5}
        torch.testing.assert_close(network.state_dict(), whole.state_dict(), **tolerance)


def test_only_what_it_computes_alike_is_taken():
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]
    assert FlatAdam.suits(torch.optim.AdamW(weights, fused=True))
    others = [
        torch.optim.Adam(weights, fused=False),
        torch.optim.Adam(weights, fused=True, amsgrad=True),
        torch.optim.SGD(weights, fused=True),
        torch.optim.Adam([{"params": weights[:1]}, {"params": weights[1:]}], fused=True),
        torch.optim.Adam([*weights, torch.nn.Parameter(torch.ones(2, dtype=torch.float64))], fused=True),
        torch.optim.Adam([torch.nn.Parameter(torch.ones(3, 3)[:, :2])], fused=True),
    ]
    assert not any(map(FlatAdam.suits, others))


def test_a_weight_without_a_gradient_stays():
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]
    optimizer = FlatAdam(torch.optim.Adam(weights, lr=0.1, fused=True))
    weights[0].grad = torch.ones(3)
    optimizer.step()
    assert (weights[0] < 1).all()
    assert (weights[1] == 1).all()


def test_views_do_not_overlap_and_keep_their_values():
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in ((), (3, 5), (17,), (1, 2, 3, 3))]
    values = [p.detach().clone() for p in parameters]
    flat = Buffer(parameters).hold(parameters)
    assert all(map(torch.equal, values, parameters))
    assert all(p.data_ptr() % 64 == flat.data_ptr() % 64 for p in parameters)
    flat.zero_()
    assert not any(p.any() for p in parameters)
