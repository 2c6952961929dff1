"""A classifier of noisy images: the way down of ADM's U-Net, and a pool by attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.network.attention import SelfAttention, attend, heads_of
from diffusion.network.base import Network, zero_
from diffusion.network.blocks import AttentionBlock, Context, Downsample, ResBlock, Stage, group_norm
from diffusion.network.embedding import Embedding
from diffusion.network.sizes import check_attention, check_least, levels_of, width_of
from diffusion.types import Cond


class Classifier(Network):
    """Logits (B, num_classes) of x_t and its noise level (Dhariwal & Nichol 2021, section 4.1 and appendix I).

    Args:
        in_channels, resolution, channels, channel_mult, num_res_blocks, attention, heads, head_channels, dropout,
            scale_shift_norm, resblock_updown: see :class:`diffusion.network.unet.UNet`.
        num_classes: of the data, at least 2.
        norm_groups: of every norm; 32 where ``None``, fewer where a group would have less than 4 channels.

    Raises:
        ValueError: a size that the data, the levels or the heads cannot have, or too few classes.
    """

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        num_classes: int,
        channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 3, 4),
        num_res_blocks: int = 2,
        attention: Sequence[int] = (32, 16, 8),
        heads: int = 1,
        head_channels: int | None = 64,
        dropout: float = 0.0,
        scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        norm_groups: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"a classifier needs data with two classes or more, and this has {num_classes}; choose data with labels"
            )
        check_least(1, num_res_blocks=num_res_blocks, heads=heads)
        sizes = levels_of(resolution, len(channel_mult))
        check_attention(attention, sizes)
        self.in_channels = in_channels
        self.resolution = resolution
        self.num_classes = num_classes
        emb_dim, eps = 4 * channels, 1e-5
        widths = [width_of(channels, multiple) for multiple in channel_mult]

        def res(c_in: int, c_out: int, resample: str | None = None) -> ResBlock:
            return ResBlock(c_in, c_out, emb_dim, dropout, scale_shift_norm, eps, resample, norm_groups)

        def attend_at(width: int) -> AttentionBlock:
            return AttentionBlock(width, heads_of(width, heads, head_channels), eps, norm_groups)

        self.embedding = Embedding(channels, emb_dim, shift=0, sine_first=False)
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        width = widths[0]
        for level, (size, target) in enumerate(zip(sizes, widths, strict=True)):
            for _ in range(num_res_blocks):
                self.down.append(Stage([res(width, target), *([attend_at(target)] if size in attention else [])]))
                width = target
            if level < len(sizes) - 1:
                self.down.append(Stage([res(width, width, "down") if resblock_updown else Downsample(width, True)]))
        self.middle = Stage([res(width, width), attend_at(width), res(width, width)])
        self.norm = group_norm(width, eps, norm_groups)
        self.pool = AttentionPool(width, sizes[-1], heads_of(width, heads, head_channels), num_classes)
        for module in self.modules():
            if isinstance(module, ResBlock):
                zero_(module.conv2)
            elif isinstance(module, SelfAttention):
                zero_(module.out)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        """x (B, C, H, W) at the level of c_noise (B,) -> logits (B, num_classes); no condition is read."""
        if x.shape[1:] != (self.in_channels, self.resolution, self.resolution):
            raise ValueError(
                f"this classifier takes {self.in_channels} channels of {self.resolution} x {self.resolution}, got "
                f"{list(x.shape[1:])}; it is of another data set"
            )
        context = Context(self.embedding(c_noise))
        h = self.stem(x)
        for stage in self.down:
            h = stage(h, context)
        return self.pool(F.silu(self.norm(self.middle(h, context))))


class AttentionPool(nn.Module):
    """The mean position attends to all positions and itself; a linear map of the result gives the logits (Radford et
    al. 2021, CLIP)."""

    def __init__(self, channels: int, size: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.place = nn.Parameter(torch.randn(size * size + 1, channels) / channels**0.5)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out)."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat((tokens.mean(1, keepdim=True), tokens), dim=1) + self.place
        q, k, v = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(attend(q[:, :, :1], k, v).transpose(1, 2).flatten(1))
