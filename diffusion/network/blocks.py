"""What the U-Net is made of: residual blocks, attention, resampling. Every layer is called as layer(x, context).

x is (B, C, H, W) in the memory format that the network chose; nothing here changes it. Additions are in place where
the tensor is a convolution's fresh output, which its backward pass does not need.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion.network.attention import CrossAttention, SelfAttention, attend

AT_ONCE = 64
"""Pixels of an image up to which one 3x3 convolution after repetition is taken: there, in small batches, the sums of
weights cost more than they save. Of an image and not of a batch, so that bits do not depend on the batch."""


class Context(NamedTuple):
    """What all blocks of one pass share.

    emb: (B, E), the noise level and ``Cond.vector``, after SiLU (once, not once a block).
    tokens, mask: ``Cond.tokens`` (B, L, D) and ``Cond.mask`` (B, L), True where a token counts.
    """

    emb: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


def group_norm(channels: int, eps: float, groups: int | None = None) -> nn.Module:
    """``groups`` of channels, no norm where they are 0; 32 where ``None`` (Wu & He 2018; DDPM), fewer where a group
    would have less than 4 channels or would not divide them.

    Raises:
        ValueError: so many groups do not divide the channels.
    """
    if groups is None:
        groups = next(g for g in range(min(32, max(channels // 4, 1)), 0, -1) if channels % g == 0)
    if groups == 0:
        return nn.Identity()
    if groups < 0 or channels % groups:
        raise ValueError(
            f"{channels} channels cannot be divided into {groups} groups; set network.norm_groups, "
            "middle_groups or attention_groups, whichever it is of, to a number that divides them"
        )
    return nn.GroupNorm(groups, channels, eps=eps)


class ResBlock(nn.Module):
    """Norm, SiLU, conv; the embedding; norm, SiLU, dropout, conv; added to the input (Ho et al. 2020, appendix B).

    Args:
        scale_shift: the embedding scales and shifts the second norm (Dhariwal & Nichol 2021, section 3.1), instead of
            being added before it.
        resample: "up" or "down" inside the block, as BigGAN does; ``None`` keeps the size.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        emb_dim: int,
        dropout: float = 0.0,
        scale_shift: bool = False,
        eps: float = 1e-6,
        resample: str | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.norm1 = group_norm(c_in, eps, groups)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb = nn.Linear(emb_dim, 2 * c_out if scale_shift else c_out)
        self.norm2 = group_norm(c_out, eps, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resampled(h), self.resampled(x)
        h = self.conv1(h)
        emb = self.emb(context.emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), scale + 1)
        else:
            h = self.norm2(h.add_(emb))
        h = self.conv2(self.dropout(F.silu(h)))
        return h.add_(self.skip(x))

    def resampled(self, x: Tensor) -> Tensor:
        """Twice or half the size."""
        return _resample(x, str(self.resample))


class AttentionBlock(nn.Module):
    """Norm, self-attention over all positions, added to the input (Ho et al. 2020, appendix B).

    token_dim: above 0, the condition's tokens are keys and values beside the positions (GLIDE, Nichol et al. 2022,
        section 4.1).
    """

    def __init__(
        self, channels: int, heads: int = 1, eps: float = 1e-6, groups: int | None = None, token_dim: int = 0
    ) -> None:
        super().__init__()
        self.norm = group_norm(channels, eps, groups)
        self.attention = SelfAttention(channels, heads)
        self.joint = nn.Linear(token_dim, 2 * channels) if token_dim else None

    def forward(self, x: Tensor, context: Context) -> Tensor:
        tokens = to_tokens(self.norm(x))
        if self.joint is None:
            return x + to_image(self.attention(tokens), x)
        assert context.tokens is not None  # the network checked
        q, k, v = self.attention.split(tokens)
        pair = self.joint(context.tokens.to(tokens)).unflatten(-1, (2, self.attention.heads, -1))
        own_k, own_v = pair.permute(2, 0, 3, 1, 4)
        mask = None
        if context.mask is not None:
            mask = F.pad(context.mask.bool(), (0, tokens.shape[1]), value=True)[:, None, None]
        attended = attend(q, torch.cat((own_k, k), dim=2), torch.cat((own_v, v), dim=2), mask)
        return x + to_image(self.attention.merged(attended), x)


class CrossAttentionBlock(nn.Module):
    """Norm, attention to the condition's tokens, added to the input (Rombach et al. 2022, section 3.3)."""

    def __init__(self, channels: int, token_dim: int, heads: int = 1, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = group_norm(channels, eps)
        self.attention = CrossAttention(channels, token_dim, heads)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        assert context.tokens is not None  # the network checked
        return x + to_image(self.attention(to_tokens(self.norm(x)), context.tokens, context.mask), x)


class Downsample(nn.Module):
    """Half the size by a 3x3 convolution of stride 2.

    centred: one row of zeros on each side (ADM's code) instead of one after the last (DDPM's, TensorFlow's "SAME").
    """

    def __init__(self, channels: int, centred: bool = False) -> None:
        super().__init__()
        self.centred = centred
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if centred else 0)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.conv(x if self.centred else _padded(x, (0, 1, 0, 1), self.conv))


class Upsample(nn.Module):
    """Twice the size by repetition, then a 3x3 convolution.

    After repetition a 3x3 window holds at most 2x2 different numbers, at one of four places. On a CPU it is computed
    so above ``AT_ONCE`` pixels: four 2x2 convolutions at the small size with summed weights, 16 products instead of 36.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if x.device.type == "cpu" and x.shape[2] * x.shape[3] > AT_ONCE:
            return self._by_phase(x)
        return self.conv(_resample(x, "up"))

    def _by_phase(self, x: Tensor) -> Tensor:
        last = x.is_contiguous(memory_format=torch.channels_last)
        height = 1 if last else 2
        rows = []
        for i, above in enumerate(_halves(self.conv.weight, 2)):
            row = []
            for j, kernel in enumerate(_halves(above, 3)):
                phase = F.conv2d(_padded(x, (1 - j, j, 1 - i, i), self.conv), kernel, self.conv.bias)
                row.append(phase.permute(0, 2, 3, 1) if last else phase)
            rows.append(_interleave(row, height + 1))
        out = _interleave(rows, height)
        return out.permute(0, 3, 1, 2) if last else out


class Stage(nn.ModuleList):
    """Layers one after another, all with the same context."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        for layer in self:
            x = layer(x, context)
        return x


def run(stage: nn.Module, x: Tensor, context: Context, checkpointing: bool) -> Tensor:
    """A stage, recomputed in the backward pass where ``checkpointing`` is on and there will be one."""
    if checkpointing and stage.training and torch.is_grad_enabled():
        return checkpoint(stage, x, context, use_reentrant=False)
    return stage(x, context)


def _padded(x: Tensor, sides: tuple[int, int, int, int], conv: nn.Conv2d) -> Tensor:
    """As the convolution pads: with zeros, or round the edges."""
    return F.pad(x, sides, mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)


def _halves(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Three taps over pairs of equal numbers are two: (a, b + c) where a pair begins, (a + b, c) where it ends."""
    a, b, c = weight.unbind(dim)
    return torch.stack((a, b + c), dim), torch.stack((a + b, c), dim)


def _interleave(tensors: list[Tensor], dim: int) -> Tensor:
    return torch.stack(tensors, dim + 1).flatten(dim, dim + 1)


def _resample(x: Tensor, how: str) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if how == "up" else F.avg_pool2d(x, 2)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_image(tokens: Tensor, like: Tensor) -> Tensor:
    """(B, H W, C) -> (B, C, H, W), H and W those of ``like``."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])
