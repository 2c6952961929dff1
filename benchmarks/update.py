"""Row 4: what follows the backward pass, at 1.1M parameters, against the usual diffusers script's.

Ours: what training does with the fused Adam of conf/optimizer: one norm, one update and one average of one long tensor.
Theirs: clipping, AdamW as torch ships it, diffusers' EMAModel. Gradients stay in place, so that both do the same work
at every call.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from benchmarks.harness import Row, counts, race, ratio
from diffusion.network.unet import UNet
from diffusion.training.clip import clip_by_norm
from diffusion.training.ema import ConstantEMA, average
from diffusion.training.flat import Buffer, FlatAdam


def rows(budget: float = 30.0, small: bool = False) -> list[Row]:
    """Row 4."""
    from diffusers.training_utils import EMAModel

    network = UNet(1, 8, channels=32, channel_mult=[1, 2, 2], num_res_blocks=1, attention=[4])
    mine, peers = list(network.parameters()), list(copy.deepcopy(network).parameters())
    for p in (*mine, *peers):
        p.grad = torch.randn_like(p) * 1e-3
    kept = list(copy.deepcopy(network).requires_grad_(False).parameters())
    flat = FlatAdam(torch.optim.Adam(mine, lr=2e-4, fused=True))
    averaged = [Buffer(kept).hold(kept)]
    rule = ConstantEMA()
    plain = torch.optim.AdamW(peers, lr=2e-4)
    ema = EMAModel(peers, decay=0.9999)
    step = 0

    def ours() -> None:
        nonlocal step
        step += 1
        clip_by_norm(flat, mine, 1.0)
        flat.step()
        average(averaged, [flat.weights], rule.beta(step))

    def theirs() -> None:
        nn.utils.clip_grad_norm_(peers, 1.0)
        plain.step()
        ema.step(peers)

    timings = race({"ours": ours, "theirs": theirs}, budget)
    count = sum(p.numel() for p in mine)
    return [
        Row("4", f"optimizer, clipping and EMA, {count / 1e6:.1f}M parameters: speed", "AdamW, diffusers EMAModel",
            ratio(timings, "theirs", "ours"), 2.5, 4.0, False, counts(timings, "ours", "theirs")),
    ]  # fmt: skip
