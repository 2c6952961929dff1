"""The contract of a network: its output's channels, and that its noise level and its condition reach the output."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from torch import Tensor, nn

from diffusion.network.base import Network
from diffusion.types import Cond


class TinyNetwork(Network):
    """One convolution, scaled by the noise level and shifted by the condition's vector: enough for every call."""

    def __init__(self, channels: int = 1, out: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out or channels, 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        shift = 0.0 if cond.vector is None else cond.vector.mean(1)[:, None, None, None]
        return self.conv(x) * (1 + 0.1 * torch.tanh(c_noise)[:, None, None, None]) + shift


def check_network(
    network: nn.Module, shape: tuple[int, ...], outputs: int | tuple[int, ...] | None = None, cond: Cond | None = None
) -> None:
    """A network answers x (2, *shape) with ``outputs`` channels of the same height and width, by its noise level.

    On the meta device shapes cost nothing, and what reaches the output is seen by the gradient; elsewhere random
    weights are tried, as many networks begin with a last layer of zeros.

    Args:
        shape: of one sample, (C, H, W).
        outputs: channels that come out (twice C with a learned variance), or the shape of a sample's output; C where
            ``None``.
        cond: what it is conditioned on, of 2 samples; it must reach the output as well.

    Raises:
        AssertionError: what is wrong, in a sentence.
    """
    name = type(network).__name__
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    meta = device.type == "meta"
    network = network if meta else _with_random_weights(network)
    count = shape[0] if outputs is None else outputs
    wanted = [2, *count] if isinstance(count, tuple) else [2, count, *shape[1:]]
    x = torch.randn(2, *shape, generator=None if meta else torch.Generator().manual_seed(0), device=device)
    level = torch.full((2,), 0.3, device=device)
    with _without_autocast(meta):
        out = network(x, level.requires_grad_(meta), cond or Cond())
        assert list(out.shape) == wanted, (
            f"{name} answers an input of {list(x.shape)} with {list(out.shape)} where {wanted} was expected: "
            "the target's channels, and as many again for a learned variance"
        )
        if meta:
            (found,) = torch.autograd.grad(out.sum(), level, allow_unused=True)
            used = found is not None
        else:
            used = not torch.equal(out, network(x, level + 0.5, cond or Cond()))
        assert used, f"{name} gives the same answer at every noise level: it must use c_noise"
        if cond is not None and not meta and not cond.is_empty:
            assert not torch.equal(out, network(x, level, cond.drop())), (
                f"{name} gives the same answer with its condition and without: it must use cond"
            )


def _with_random_weights(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network).requires_grad_(False).eval()
    random = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.copy_(0.1 * torch.randn(parameter.shape, generator=random))
    return network


@contextmanager
def _without_autocast(meta: bool) -> Iterator[None]:
    """torch.autocast does not know the meta device."""
    if not meta:
        with torch.no_grad():
            yield
        return
    with mock.patch.object(torch, "autocast", return_value=nullcontext()):
        yield
