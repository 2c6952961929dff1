"""EDM2's network as a function of tensors under their names (Karras et al. 2024, appendix B), with torch.nn.functional
alone, and random tensors for it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sphere(w: Tensor) -> Tensor:
    """Each filter with mean square 1."""
    rms = w.flatten(1).square().mean(1).sqrt()
    return w / (1e-4 + rms).reshape(-1, *[1] * (w.ndim - 1))


def silu(x: Tensor) -> Tensor:
    return x * x.sigmoid() / 0.596


def add(a: Tensor, b: Tensor, t: float) -> Tensor:
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


class Net:
    """c: the constructor's arguments."""

    def __init__(self, c: dict[str, Any]) -> None:
        self.c, self.w = c, {}
        self.generator = torch.Generator().manual_seed(2)
        self.making = True
        size = c["img_resolution"]
        with torch.no_grad():
            self(torch.randn(1, c["img_channels"], size, size), torch.ones(1), torch.zeros(1, c["label_dim"]))
        self.making = False

    def get(self, name: str, *shape: int) -> Tensor:
        if self.making:
            self.w[name] = torch.randn(shape, generator=self.generator) + (0.5 if shape == () else 0.0)
        return self.w[name]

    def map(self, name: str, x: Tensor, out: int, kernel: int = 0, gain: Tensor | float = 1.0) -> Tensor:
        shape = (out, x.shape[1], kernel, kernel) if kernel else (out, x.shape[1])
        w = sphere(self.get(f"{name}.weight", *shape)) * gain / math.sqrt(math.prod(shape[1:]))
        return F.conv2d(x, w, padding=kernel // 2) if kernel else x @ w.T

    def block(self, name: str, x: Tensor, emb: Tensor, out: int, enc: bool, attend: bool, how: str = "") -> Tensor:
        if how == "down":
            x = F.avg_pool2d(x, 2)
        elif how == "up":
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        other = x.shape[1] != out
        if enc:
            x = self.map(f"{name}.conv_skip", x, out, 1) if other else x
            x = x / (1e-4 + x.square().mean(1, keepdim=True).sqrt())
        y = self.map(f"{name}.conv_res0", silu(x), out, 3)
        c = self.map(f"{name}.emb_linear", emb, out, gain=self.get(f"{name}.emb_gain")) + 1
        y = self.map(f"{name}.conv_res1", silu(y * c[:, :, None, None]), out, 3)
        if not enc and other:
            x = self.map(f"{name}.conv_skip", x, out, 1)
        x = add(x, y, 0.3)
        if attend:
            heads, d = out // self.c["channels_per_head"], self.c["channels_per_head"]
            y = self.map(f"{name}.attn_qkv", x, 3 * out, 1).reshape(len(x), heads, d, 3, -1)
            q, k, v = (y / (1e-4 + y.square().mean(2, keepdim=True).sqrt())).unbind(3)
            weights = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(d)).softmax(3)
            y = torch.einsum("nhqk,nhck->nhcq", weights, v).reshape(x.shape)
            x = add(x, self.map(f"{name}.attn_proj", y, out, 1), 0.3)
        return x.clip(-256, 256)

    def __call__(self, x: Tensor, c_noise: Tensor, label: Tensor) -> Tensor:
        c = self.c
        full, blocks, at = c["img_resolution"], c["num_blocks"], c["attn_resolutions"]
        levels = [(full >> i, c["model_channels"] * m) for i, m in enumerate(c["channel_mult"])]
        first, width = levels[0][1], max(w for _, w in levels)
        freqs, phases = self.get("emb_fourier.freqs", first), self.get("emb_fourier.phases", first)
        emb = self.map("emb_noise", math.sqrt(2) * torch.cos(c_noise[:, None] * freqs + phases), width)
        if c["label_dim"]:
            emb = add(emb, self.map("emb_label", label * math.sqrt(c["label_dim"]), width), 0.5)
        emb = silu(emb)
        h = self.map(f"enc.{full}x{full}_conv", torch.cat([x, torch.ones_like(x[:, :1])], 1), first, 3)
        skips = [h]
        for level, (size, out) in enumerate(levels):
            if level:
                h = self.block(f"enc.{size}x{size}_down", h, emb, h.shape[1], True, False, "down")
                skips.append(h)
            for i in range(blocks):
                h = self.block(f"enc.{size}x{size}_block{i}", h, emb, out, True, size in at)
                skips.append(h)
        for level, (size, out) in reversed(list(enumerate(levels))):
            if level == len(levels) - 1:
                h = self.block(f"dec.{size}x{size}_in0", h, emb, out, False, True)
                h = self.block(f"dec.{size}x{size}_in1", h, emb, out, False, False)
            else:
                h = self.block(f"dec.{size}x{size}_up", h, emb, h.shape[1], False, False, "up")
            for i in range(blocks + 1):
                s = skips.pop()
                n, m = h.shape[1], s.shape[1]
                both = math.sqrt((n + m) / 0.5) * 0.5  # halves of equal weight
                h = torch.cat([h * both / math.sqrt(n), s * both / math.sqrt(m)], 1)
                h = self.block(f"dec.{size}x{size}_block{i}", h, emb, out, False, size in at)
        return self.map("out_conv", h, c["img_channels"], 3, self.get("out_gain"))
