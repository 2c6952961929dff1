"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, config G)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.network.attention import attend, check_tokens, heads_of
from diffusion.network.base import Network
from diffusion.network.blocks import Context, run
from diffusion.network.magnitude import MagnitudeConv, MagnitudeFourier, joined, mixed, normalized, silu
from diffusion.network.sizes import check_attention, check_image, check_least, levels_of, width_of
from diffusion.types import Cond

RESIDUAL = ATTENTION = 0.3
"""Shares of a branch in the sum with its input."""
SKIP = LABEL = 0.5
"""Shares of the joined half on the way up, and of the condition in the embedding."""
CLIP = 256.0
"""Activations of a block are at most so large, for half precision."""


class EDM2Block(nn.Module):
    """Residual branch and attention without norms, biases or added embeddings (appendix B).

    Args:
        encoder: pixels are normalized first, and the map to another width comes before the branch.
        resample: "up" or "down" at the start of the block; ``None`` keeps the size.
        heads: of attention, 0 for none.
    """

    def __init__(
        self, c_in: int, c_out: int, emb_dim: int, encoder: bool, resample: str | None, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.encoder, self.resample, self.heads = encoder, resample, heads
        self.skip = MagnitudeConv(c_in, c_out, 1) if c_in != c_out else None
        self.conv1 = MagnitudeConv(c_out if encoder else c_in, c_out, 3)
        self.emb = MagnitudeConv(emb_dim, c_out)
        self.gain = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = MagnitudeConv(c_out, c_out, 3)
        self.qkv = MagnitudeConv(c_out, 3 * c_out, 1) if heads else None
        self.out = MagnitudeConv(c_out, c_out, 1) if heads else None

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if self.resample is not None:
            x = F.interpolate(x, scale_factor=2.0) if self.resample == "up" else F.avg_pool2d(x, 2)
        if self.encoder:
            x = normalized(x if self.skip is None else self.skip(x), dim=1)
        h = self.conv1(silu(x))
        h = silu(h * (self.emb(context.emb, self.gain) + 1)[:, :, None, None].to(h.dtype))
        h = self.conv2(self.dropout(h))
        if not self.encoder and self.skip is not None:
            x = self.skip(x)
        x = mixed(x, h, RESIDUAL)
        if self.qkv is not None and self.out is not None:
            q, k, v = (
                normalized(self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)), dim=3).transpose(3, 4).unbind(1)
            )
            h = attend(q, k, v).transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])
            x = mixed(x, self.out(h), ATTENTION)
        return x.clamp(-CLIP, CLIP)


class EDM2UNet(Network):
    """A U-Net of constant magnitudes: every sum, join, activation and weight is scaled to keep unit variance.

    In training mode with gradients, each forward pass first puts the weights of each filter onto the sphere (section
    2.4). The conditioner's vector is added at the same magnitude: an embedding of labels starts with unit variance.

    Args:
        in_channels, resolution, out_channels, channels, channel_mult, num_res_blocks, attention, dropout,
            learned_variance, checkpointing, outputs: see :class:`diffusion.network.unet.UNet`.
        head_channels: width of a head.
        cond_dim: width of ``Cond.vector``, 0 for none; projected unless it has the width of the last level.

    Raises:
        ValueError: a size that the data, the levels or the heads cannot have.
    """

    blocks = (EDM2Block,)

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        out_channels: int | None = None,
        channels: int = 192,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        num_res_blocks: int = 3,
        attention: Sequence[int] = (16, 8),
        head_channels: int = 64,
        dropout: float = 0.0,
        cond_dim: int = 0,
        learned_variance: bool = False,
        checkpointing: bool = False,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        check_least(1, num_res_blocks=num_res_blocks, channels=channels)
        sizes = levels_of(resolution, len(channel_mult))
        check_attention(attention, sizes)
        self.in_channels, self.factor, self.checkpointing = in_channels, resolution // sizes[-1], checkpointing
        self.cond_dim = cond_dim
        widths = [width_of(channels, multiple) for multiple in channel_mult]
        emb_dim = max(widths)
        self.fourier = MagnitudeFourier(widths[0])
        self.emb = MagnitudeConv(widths[0], emb_dim)
        self.condition = MagnitudeConv(cond_dim, emb_dim) if cond_dim not in (0, emb_dim) else None

        def block(c_in: int, c_out: int, encoder: bool, attended: bool, resample: str | None = None) -> EDM2Block:
            heads = heads_of(c_out, 1, head_channels) if attended else 0
            return EDM2Block(c_in, c_out, emb_dim, encoder, resample, heads, dropout)

        width = widths[0]
        self.stem = MagnitudeConv(in_channels + 1, width, 3)  # a channel of ones stands for the biases
        self.down = nn.ModuleList()
        skips = [width]
        for level, (size, target) in enumerate(zip(sizes, widths, strict=True)):
            if level > 0:
                self.down.append(block(width, width, True, False, "down"))
                skips.append(width)
            for _ in range(num_res_blocks):
                self.down.append(block(width, target, True, size in attention))
                width = target
                skips.append(width)
        self.middle = nn.ModuleList([block(width, width, False, True), block(width, width, False, False)])
        self.up = nn.ModuleList()
        self.joins: list[bool] = []
        for level, (size, target) in reversed(list(enumerate(zip(sizes, widths, strict=True)))):
            if level < len(sizes) - 1:
                self.up.append(block(width, width, False, False, "up"))
                self.joins.append(False)
            for _ in range(num_res_blocks + 1):
                self.up.append(block(width + skips.pop(), target, False, size in attention))
                self.joins.append(True)
                width = target
        self.head = MagnitudeConv(width, (out_channels or in_channels) * (outputs + learned_variance), 3)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        check_image(x, cond, self.in_channels, 0, self.factor)
        check_tokens(0, cond.tokens)
        if self.training and torch.is_grad_enabled():
            for module in self.modules():
                if isinstance(module, MagnitudeConv):
                    module.force()
        context = Context(self.embedding(c_noise, cond))
        h = self.stem(torch.cat((x, torch.ones_like(x[:, :1])), dim=1))
        skips = [h]
        for block in self.down:
            h = run(block, h, context, self.checkpointing)
            skips.append(h)
        for block in self.middle:
            h = run(block, h, context, self.checkpointing)
        for block, joins in zip(self.up, self.joins, strict=True):
            h = run(block, joined(h, skips.pop(), SKIP) if joins else h, context, self.checkpointing)
        return self.head(h, self.gain)

    def embedding(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """c_noise (B,), the condition's vector (B, cond_dim) -> (B, width of the last level), after SiLU."""
        given = 0 if cond.vector is None else cond.vector.shape[-1]
        if given != self.cond_dim or cond.numbers:
            raise ValueError(
                f"this network was built for a condition vector of width {self.cond_dim} (0 = none) and no numbers, "
                f"got width {given} and the numbers {list(cond.numbers)}; network.cond_dim must equal conditioner.dim"
            )
        with torch.autocast(c_noise.device.type, enabled=False):
            dtype = self.emb.weight.dtype
            emb = self.emb(self.fourier(c_noise if c_noise.dtype == torch.float64 else c_noise.float()).to(dtype))
            if cond.vector is not None:
                vector = cond.vector.to(dtype)
                emb = mixed(emb, vector if self.condition is None else self.condition(vector), LABEL)
            return silu(emb)
