"""How much arithmetic a network is, and how much this machine does at best: their ratio is how well it is used.

Model FLOP/s utilisation (Chowdhery et al. 2022, appendix B) = FLOPs that the network as written needs for a second's
images / FLOP/s of the machine. What is done twice (recomputed blocks) or cleverly not at all does not count.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffusion.types import Cond

STEP = 3.0
"""Network calls that a training step is counted as: forward, and twice as much backward."""


def count(run: Callable[[], object]) -> float:
    """Floating-point operations of what ``run`` does: matrix products and convolutions, two for each multiplication
    with its addition; element-wise work is not counted."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def network_flops(network: nn.Module, shape: tuple[int, ...], cond: Cond) -> float:
    """Of one call on ``shape`` (C, H, W) and one sample's condition, from shapes alone: it computes nothing."""
    tensors = chain(network.named_parameters(), network.named_buffers())
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    unknown = mock.patch.object(torch, "autocast", return_value=nullcontext())  # to the meta device
    with unknown, torch.no_grad(), torch.device("meta"):
        arguments = (torch.empty(1, *shape), torch.empty(1), cond.map(lambda v: torch.empty_like(v, device="meta")))
        return count(lambda: torch.func.functional_call(network, meta, arguments))


@functools.cache
def peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s reached here and now by the better of a matrix product and a 3x3 convolution; half a second, once.

    Neither is the limit alone: on CPUs float32 convolutions outrun matrix products, on GPUs it is the other way. On a
    CPU they grow until one takes 50 ms: what a processor emulates (bf16 on many) would take a minute at full size.
    """
    draw = torch.Generator(device).manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, device=device, dtype=torch.float32).to(dtype)

    def product(size: int) -> Callable[[], Tensor]:
        a, b = some(size, size), some(size, size)
        return lambda: a @ b

    def convolution(batch: int, channels: int) -> Callable[[], Tensor]:
        x = some(batch, channels, 16, 16).to(memory_format=torch.channels_last)
        kernel = some(channels, channels, 3, 3).to(memory_format=torch.channels_last)
        return lambda: nn.functional.conv2d(x, kernel, padding=1)

    if device.type == "cpu":
        products = map(product, (128, 256, 512, 1024))
        convolutions = (convolution(batch, channels) for batch, channels in ((1, 32), (2, 64), (4, 128), (8, 256)))
    else:
        products, convolutions = map(product, (8192,)), (convolution(256, 256) for _ in range(1))
    best = 0.0
    with torch.inference_mode():
        for kind in (products, convolutions):
            for run in kind:
                seconds = min(_seconds(run, device))
                best = max(best, count(run) / seconds)
                if seconds > 0.05:
                    break
    return best


def _seconds(run: Callable[[], object], device: torch.device, calls: int = 4) -> list[float]:
    """Of each call but the first, which prepares; of that alone where it takes a quarter of a second. On a GPU each is
    waited for."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - start)
        if seconds[0] > 0.25 and device.type == "cpu":
            return seconds
    return seconds[1:]


def arithmetic(precision: str) -> torch.dtype:
    """What matrix products run in under a trainer's precision: "bf16-mixed" -> bfloat16."""
    for name, dtype in (("bf16", torch.bfloat16), ("16", torch.float16), ("64", torch.float64)):
        if precision.startswith(name):
            return dtype
    return torch.float32
