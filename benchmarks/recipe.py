"""ADM's recipe for DDPM's U-Net (Dhariwal & Nichol 2021, section 3 and their released code's habits), as a peer.

Written here from the description, for timing only: group norms in float32 whatever comes in, SiLU and convolution as
layers in a row, attention as two einsums over channels-first tokens with the scale on both factors and the softmax in
float32, upsampling by repetition and a plain convolution, the embedding through SiLU in every block.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).type(x.dtype)


class Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, emb: int) -> None:
        super().__init__()
        self.first = nn.Sequential(Norm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb = nn.Sequential(nn.SiLU(), nn.Linear(emb, c_out))
        last = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.second = nn.Sequential(Norm(32, c_out), nn.SiLU(), nn.Dropout(0.0), last)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.first(x)
        h = h + self.emb(emb).type(h.dtype)[..., None, None]
        return self.skip(x) + self.second(h)


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(32, channels)
        self.qkv, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        flat = x.flatten(2)
        q, k, v = self.qkv(self.norm(flat)).chunk(3, dim=1)
        scale = 1 / math.sqrt(math.sqrt(q.shape[1]))
        weight = torch.einsum("bct,bcs->bts", q * scale, k * scale).float().softmax(-1).type(v.dtype)
        return (flat + self.out(torch.einsum("bts,bcs->bct", weight, v))).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(x)


class Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Recipe(nn.Module):
    """DDPM's CIFAR-10 network where nothing else is said. ``attended``: the levels with attention, from 0."""

    def __init__(
        self,
        in_channels: int = 3,
        channels: int = 128,
        mult: tuple[int, ...] = (1, 2, 2, 2),
        blocks: int = 2,
        attended: tuple[int, ...] = (1,),
    ) -> None:
        super().__init__()
        self.channels, emb = channels, 4 * channels
        self.time = nn.Sequential(nn.Linear(channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = channels, [channels]
        for level, m in enumerate(mult):
            for _ in range(blocks):
                layers: list[nn.Module] = [Residual(width, m * channels, emb)]
                width = m * channels
                self.down.append(nn.ModuleList([*layers, *([Attention(width)] if level in attended else [])]))
                skips.append(width)
            if level < len(mult) - 1:
                self.down.append(nn.ModuleList([Down(width)]))
                skips.append(width)
        self.middle = nn.ModuleList([Residual(width, width, emb), Attention(width), Residual(width, width, emb)])
        for level, m in reversed(list(enumerate(mult))):
            for i in range(blocks + 1):
                layers = [Residual(width + skips.pop(), m * channels, emb)]
                width = m * channels
                layers += [Attention(width)] if level in attended else []
                layers += [Up(width)] if i == blocks and level else []
                self.up.append(nn.ModuleList(layers))
        self.head = nn.Sequential(Norm(32, width), nn.SiLU(), nn.Conv2d(width, in_channels, 3, padding=1))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        half = self.channels // 2
        angle = label[:, None].float() * torch.exp(-math.log(10_000) / half * torch.arange(half).float())
        emb = self.time(torch.cat((angle.cos(), angle.sin()), dim=-1))
        h = self.stem(x)
        skips = [h]
        for stage in self.down:
            h = _run(stage, h, emb)
            skips.append(h)
        h = _run(self.middle, h, emb)
        for stage in self.up:
            h = _run(stage, torch.cat((h, skips.pop()), dim=1), emb)
        return self.head(h)


def _run(layers: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    for layer in layers.children():
        h = layer(h, emb)
    return h
