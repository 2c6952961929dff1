"""EDM's two networks as functions of tensors under their names (Karras et al. 2022, appendix C and table 7), with
torch.nn.functional alone, and random tensors for them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


class Net:
    """song: SongUNet, else DhariwalUNet. c: the constructor's arguments, all of them."""

    def __init__(self, song: bool, c: dict[str, Any]) -> None:
        self.song, self.c, self.w = song, c, {}
        self.generator = torch.Generator().manual_seed(1)
        self.taps = torch.tensor(c.get("resample_filter", [1, 1])).float()
        self.making = True
        with torch.no_grad():
            size = c["img_resolution"]
            label = torch.zeros(1, c["label_dim"]) if c["label_dim"] else None
            self(torch.randn(1, c["in_channels"], size, size), torch.ones(1), label)
        self.making = False

    def get(self, name: str, *shape: int) -> Tensor:
        if self.making:
            scale = 0.3 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:]))
            self.w[name] = torch.randn(shape, generator=self.generator) * scale
        return self.w[name]

    def conv(self, name: str, x: Tensor, out: int, kernel: int = 3) -> Tensor:
        weight, bias = self.get(f"{name}.weight", out, x.shape[1], kernel, kernel), self.get(f"{name}.bias", out)
        return F.conv2d(x, weight, bias, padding=kernel // 2)

    def linear(self, name: str, x: Tensor, out: int, bias: bool = True) -> Tensor:
        weight = self.get(f"{name}.weight", out, x.shape[1])
        return x @ weight.T + (self.get(f"{name}.bias", out) if bias else 0)

    def norm(self, name: str, x: Tensor) -> Tensor:
        n = x.shape[1]
        groups = min(32, n // 4)
        return F.group_norm(
            x, groups, self.get(f"{name}.weight", n), self.get(f"{name}.bias", n), 1e-6 if self.song else 1e-5
        )

    def resampled(self, x: Tensor, how: str | None) -> Tensor:
        if how is None:
            return x
        f = torch.outer(self.taps, self.taps)
        f, n, pad = f / f.sum(), x.shape[1], (len(self.taps) - 1) // 2
        if how == "down":
            return F.conv2d(x, f.expand(n, 1, -1, -1), stride=2, padding=pad, groups=n)
        return F.conv_transpose2d(x, 4 * f.expand(n, 1, -1, -1), stride=2, padding=pad, groups=n)

    def block(
        self, name: str, x: Tensor, emb: Tensor, out: int, attend: bool = False, how: str | None = None
    ) -> Tensor:
        h = self.conv(f"{name}.conv0", self.resampled(F.silu(self.norm(f"{name}.norm0", x)), how), out)
        shift = self.linear(f"{name}.affine", emb, out if self.song else 2 * out)[:, :, None, None]
        if self.song:
            h = F.silu(self.norm(f"{name}.norm1", h + shift))
        else:
            scale, shift = shift.chunk(2, dim=1)
            h = F.silu(self.norm(f"{name}.norm1", h) * (scale + 1) + shift)
        h = self.conv(f"{name}.conv1", h, out)
        x = self.resampled(x, how)
        if out != x.shape[1] or (self.song and how):
            x = self.conv(f"{name}.skip", x, out, 1)
        gain = math.sqrt(0.5) if self.song else 1.0
        x = (h + x) * gain
        if attend:
            heads = 1 if self.song else out // 64
            qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x), 3 * out, 1)
            q, k, v = qkv.reshape(len(x) * heads, out // heads, 3, -1).unbind(2)
            weights = torch.einsum("ncq,nck->nqk", q, k / math.sqrt(out // heads)).softmax(2)
            a = torch.einsum("nqk,nck->ncq", weights, v).reshape(x.shape)
            x = (self.conv(f"{name}.proj", a, out, 1) + x) * gain
        return x

    def embedding(self, c_noise: Tensor, label: Tensor | None) -> Tensor:
        base, fourier = self.c["model_channels"], self.c.get("embedding_type") == "fourier"
        if fourier:
            angle = c_noise[:, None] * (2 * math.pi * self.get("map_noise.freqs", base))
        else:
            i = torch.arange(base // 2)
            angle = c_noise[:, None] * 10000 ** (-i / (base // 2 - (1 if self.song else 0)))
        parts = (angle.sin(), angle.cos()) if self.song else (angle.cos(), angle.sin())
        emb = torch.cat(parts, 1)
        if self.song and label is not None:
            emb = emb + self.linear("map_label", label * math.sqrt(label.shape[1]), emb.shape[1])
        if self.making:
            self.get("map_augment.weight", emb.shape[1], 9)
        emb = self.linear("map_layer1", F.silu(self.linear("map_layer0", emb, 4 * base)), 4 * base)
        if not self.song and label is not None:
            emb = emb + self.linear("map_label", label, 4 * base, bias=False)
        return F.silu(emb)

    def __call__(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        c, emb = self.c, self.embedding(c_noise, label)
        base, full, blocks = c["model_channels"], c["img_resolution"], c["num_blocks"]
        levels = [(full >> i, base * m) for i, m in enumerate(c["channel_mult"])]
        residual = x if c.get("encoder_type") == "residual" else None
        h = self.conv(f"enc.{full}x{full}_conv", x, base if self.song else levels[0][1])
        skips = [h]
        for level, (size, width) in enumerate(levels):
            at = f"enc.{size}x{size}"
            if level:
                h = self.block(f"{at}_down", h, emb, h.shape[1], how="down")
                if residual is not None:
                    residual = h = (h + self.blurred(f"{at}_aux_residual", residual, h.shape[1])) * math.sqrt(0.5)
                skips.append(h)
            for i in range(blocks):
                h = self.block(f"{at}_block{i}", h, emb, width, size in c["attn_resolutions"])
                skips.append(h)
        for level, (size, width) in reversed(list(enumerate(levels))):
            at = f"dec.{size}x{size}"
            if level == len(levels) - 1:
                h = self.block(f"{at}_in1", self.block(f"{at}_in0", h, emb, width, True), emb, width)
            else:
                h = self.block(f"{at}_up", h, emb, h.shape[1], how="up")
            for i in range(blocks + 1):
                attend = size in c["attn_resolutions"] and (i == blocks or not self.song)
                h = self.block(f"{at}_block{i}", torch.cat([h, skips.pop()], 1), emb, width, attend)
        last = f"dec.{full}x{full}_aux" if self.song else "out"
        return self.conv(f"{last}_conv", F.silu(self.norm(f"{last}_norm", h)), c["out_channels"])

    def blurred(self, name: str, x: Tensor, out: int) -> Tensor:
        """A 3x3 convolution of stride 2 after the filter, both padded."""
        f, n = torch.outer(self.taps, self.taps), x.shape[1]
        f = f / f.sum()
        x = F.conv2d(x, f.expand(n, 1, -1, -1), padding=1 + (len(self.taps) - 1) // 2, groups=n)
        return F.conv2d(x, self.get(f"{name}.weight", out, n, 3, 3), self.get(f"{name}.bias", out), stride=2)
