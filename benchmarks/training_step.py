"""Rows 1 to 3: a training step of DDPM's CIFAR-10 network, 35.7M parameters, against diffusers' UNet2DModel.

Forward, backward and fused AdamW on random pictures, dropout 0. The fraction of peak divides the FLOPs of the network
as published (counted on the peer, so that computing less for the same answer counts as speed) by a probe: a 3x3
convolution of 256 channels, the fastest thing that float32 was found to do here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Row, counts, race, ratio
from diffusion.network.unet import UNet
from diffusion.types import Cond


def rows(budget: float = 120.0, batch: int = 8) -> list[Row]:
    """Rows 1, 2 and 3 from one race."""
    x, label = torch.randn(batch, 3, 32, 32), torch.rand(batch) * 1000
    peer = _diffusers()

    def theirs(x: Tensor, label: Tensor) -> Tensor:
        return peer(x, label).sample

    ours, ours_bf16 = UNet(3, 32), UNet(3, 32)
    probe, probe_flops = _probe()
    flops = _flops(lambda: theirs(x, label).square().mean().backward())
    timings = race(
        {
            "ours": _step(ours, lambda x, label: ours(x, label, Cond()), x, label),
            "theirs": _step(peer, theirs, x, label),
            "ours, bf16": _step(ours_bf16, lambda x, label: ours_bf16(x, label, Cond()), x, label, bf16=True),
            "probe": probe,
        },
        budget,
    )
    against_probe = ratio(timings, "probe", "ours")
    fraction = None if against_probe is None else flops / probe_flops * against_probe
    what = f"training step, CIFAR-10 DDPM U-Net, batch {batch}"
    peer_name = "diffusers UNet2DModel, float32"
    return [
        Row("1", f"{what}, float32: time", peer_name, ratio(timings, "ours", "theirs"), 1.05, 0.95, True,
            counts(timings, "ours", "theirs")),
        Row("2", "the same as a fraction of peak", "convolution probe", fraction, 0.65, 0.80, False,
            counts(timings, "ours", "probe")),
        Row("3", f"{what}, bf16 autocast: speed", peer_name, ratio(timings, "theirs", "ours, bf16"), 1.6, 1.9, False,
            counts(timings, "theirs", "ours, bf16")),
    ]  # fmt: skip


def _step(
    network: nn.Module, call: Callable[[Tensor, Tensor], Tensor], x: Tensor, label: Tensor, bf16: bool = False
) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = call(x, label)
        (out.float() - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _diffusers() -> nn.Module:
    from diffusers.models.unets.unet_2d import UNet2DModel

    plain, attended = "DownBlock2D", "AttnDownBlock2D"
    return UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=(128, 256, 256, 256), layers_per_block=2,
        down_block_types=(plain, attended, plain, plain),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, attention_head_dim=None,
    )  # fmt: skip


def _probe() -> tuple[Callable[[], None], int]:
    """A convolution that fills the machine, and its FLOPs."""
    conv = nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(32, 256, 16, 16).to(memory_format=torch.channels_last)

    def probe() -> None:
        with torch.inference_mode():
            conv(x)

    return probe, 2 * 32 * 256 * 256 * 9 * 16 * 16


def _flops(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()
