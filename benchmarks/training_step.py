"""Rows 1 to 3: a training step of DDPM's CIFAR-10 network, 35.7M parameters, against diffusers' UNet2DModel and ADM's
recipe (``recipe.py``), all of equal parameters and equal FLOPs as published.

Forward, backward and AdamW on random images, dropout 0: peers with AdamW as their scripts construct it, ours fused as
in conf/optimizer. The fraction of peak divides the FLOPs of the network
as published (counted on the peer, so that computing less for the same answer counts as speed) by the measured rate of
fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import NO_BF16, Row, counts, race, ratio
from benchmarks.peak import peak
from benchmarks.recipe import Recipe
from diffusion.experiment.config.resolvers import multiplies_bf16
from diffusion.network.unet import UNet
from diffusion.types import Cond

Network = Callable[[Tensor, Tensor], Tensor]


def rows(budget: float = 180.0, small: bool = False, batch: int = 8) -> list[Row]:
    """Rows 1, 2 and 3 from one race; row 1 alone, of a network of 64 channels on 16x16 images, where small."""
    channels, mult, size = (64, (1, 2), 16) if small else (128, (1, 2, 2, 2), 32)
    x, label = torch.randn(batch, 3, size, size), torch.rand(batch) * 1000

    def ours() -> tuple[nn.Module, Network]:
        network = UNet(3, size, channels=channels, channel_mult=mult, attention=[size // 2])
        return network, lambda x, label: network(x, label, Cond())

    diffusers, recipe = _diffusers(channels, mult, size), Recipe(3, channels, mult)
    peers: dict[str, tuple[nn.Module, Network]] = {
        "diffusers UNet2DModel": (diffusers, lambda x, label: diffusers(x, label).sample),
        "ADM's recipe": (recipe, recipe),
    }
    (mine, _), *_ = everyone = [ours(), *peers.values()]
    assert len({sum(p.numel() for p in network.parameters()) for network, _ in everyone}) == 1, "not of one size"
    runs: dict[str, Callable[[], object]] = {
        name: training_step(*peer, x, label, fused=False) for name, peer in peers.items()
    }
    runs["ours"] = training_step(*everyone[0], x, label)
    bf16 = multiplies_bf16()  # where they are emulated, float32 is the default and row 3 has no subject
    if not small and bf16:
        runs["ours, bf16"] = training_step(*ours(), x, label, bf16=True)
    if not small:
        runs["peak"], peak_flops, peak_name = peak(torch.get_num_threads())
        flops = count_flops(lambda: diffusers(x, label).sample.square().mean().backward())
    timings = race(runs, budget)
    fastest = min(peers, key=lambda name: timings[name].median)
    what = f"training step, U-Net of {sum(p.numel() for p in mine.parameters()) / 1e6:.1f}M, batch {batch}"
    table = [
        Row("1", f"{what}, float32: time", f"{name}{', the faster' if name == fastest else ''}",
            ratio(timings, "ours", name), 1.05, 0.90, True, counts(timings, "ours", name))
        for name in peers
    ]  # fmt: skip
    if small:
        return table
    against_peak = ratio(timings, "peak", "ours")
    fraction = None if against_peak is None else flops / peak_flops * against_peak
    return [
        *table,
        Row("2", "the same as a fraction of peak", peak_name, fraction, 0.65, 0.80, False,
            counts(timings, "ours", "peak")),
        Row("3", f"{what}, bf16 autocast: speed", f"{fastest}, float32",
            ratio(timings, fastest, "ours, bf16") if bf16 else None, 1.6, 1.9, False,
            counts(timings, fastest, "ours, bf16") if bf16 else NO_BF16),
    ]  # fmt: skip


def training_step(
    network: nn.Module, call: Network, x: Tensor, label: Tensor, bf16: bool = False, fused: bool = True
) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4, fused=fused or None)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = call(x, label)
        (out.float() - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _diffusers(channels: int, mult: tuple[int, ...], size: int) -> nn.Module:
    from diffusers.models.unets.unet_2d import UNet2DModel

    attended = [level == 1 for level in range(len(mult))]
    return UNet2DModel(
        sample_size=size, in_channels=3, out_channels=3, layers_per_block=2,
        block_out_channels=tuple(channels * m for m in mult),
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attended),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attended)),
        norm_num_groups=min(32, channels // 4), downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
        norm_eps=1e-6, attention_head_dim=None,
    )  # fmt: skip


def count_flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
