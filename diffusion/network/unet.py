"""The U-Net of DDPM (Ho et al. 2020, appendix B) and of ADM (Dhariwal & Nichol 2021, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.network.attention import SelfAttention, check_tokens, heads_of
from diffusion.network.base import Network, zero_
from diffusion.network.blocks import (
    AttentionBlock,
    Context,
    CrossAttentionBlock,
    Downsample,
    ResBlock,
    Stage,
    Upsample,
    group_norm,
    run,
)
from diffusion.network.embedding import Embedding, NumberEmbedding
from diffusion.network.sizes import (
    by_level,
    check_attention,
    check_choice,
    check_image,
    check_least,
    levels_of,
    width_of,
)
from diffusion.network.transformer import SpatialTransformer, TransformerBlock
from diffusion.types import Cond


class UNet(Network):
    """Residual blocks down to the smallest level and up again, every block's output joined to its mirror image.

    Args:
        in_channels: of the data (or of the latents).
        out_channels: of one group, ``in_channels`` where ``None``; ``learned_variance`` adds a group.
        resolution: height and width of the data, halved once between levels.
        channels: base width; the embedding is 4 times as wide.
        channel_mult: width of each level as a multiple of ``channels``; its length is the number of levels.
        num_res_blocks: residual blocks a level on the way down; one more on the way up.
        attention: the resolutions at which blocks are followed by self-attention (the middle always has it).
        heads: of attention, where ``head_channels`` does not give the width of one; a number, or one for each level.
        scale_shift_norm: the embedding scales and shifts a norm instead of being added.
        resblock_updown: resampling inside residual blocks (BigGAN) instead of by a convolution of its own.
        cond_dim: width of ``Cond.vector``, 0 for none; projected unless it has the embedding's width.
        token_dim: width of ``Cond.tokens``, read by cross-attention after every self-attention; 0 for none.
        joint_attention: tokens are keys and values of the self-attention instead (GLIDE, unCLIP).
        image_channels: of ``Cond.image``, joined to the input; 0 for none.
        learned_variance: another group of channels comes out (Nichol & Dhariwal 2021).
        outputs: groups of channels for the target; two where it has two parts.
        checkpointing: recompute each block in the backward pass: less memory, about a third more time.
        memory_format: contiguous, channels_last, or auto, which is contiguous: on a CPU, channels last was slower at 32
            channels, equal from 64 on in float32 and 5% slower at 128 in bf16 (torch's group norm is the loser).
        variant: ddpm or adm, where the papers' codes differ and their weights depend on it: the order and frequencies
            of the sinusoids, the padding of the strided convolution, epsilon of the norms, initial weights.
        numbers: names of ``Cond.numbers`` that it embeds.
        stem_channels: out of the first convolution, those of the first level where ``None``.
        norm_groups: of every norm; 32 where ``None``, fewer where a group would have less than 4 channels.
        middle_groups: of the norm of the middle's attention, 0 for none; ``norm_groups`` where ``None``.
        middle_attention: the middle has attention between its two residual blocks.
        transformer_depth: transformer blocks of :class:`SpatialTransformer` instead of self- and cross-attention, a
            number, or one for each level, the middle having that of the last; ``None`` for none.
        joint_features: sinusoids of each component of a number, joined to ``Cond.vector``; see :class:`Embedding`.
        guidance_features: sinusoids of the number "guidance", joined to those of c_noise; see :class:`Embedding`.
        norm_eps, sine_first, frequency_shift, centred: where published weights mix what ``variant`` decides together;
            the variant's where ``None``. See :func:`group_norm`, :class:`Embedding` and :class:`Downsample`.

    Raises:
        ValueError: a size that the data, the levels or the heads cannot have.
    """

    blocks = (ResBlock, AttentionBlock, CrossAttentionBlock, TransformerBlock)

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        out_channels: int | None = None,
        channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 2, 2),
        num_res_blocks: int = 2,
        attention: Sequence[int] = (16,),
        heads: int | Sequence[int] = 1,
        head_channels: int | None = None,
        dropout: float = 0.0,
        scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        cond_dim: int = 0,
        token_dim: int = 0,
        image_channels: int = 0,
        learned_variance: bool = False,
        checkpointing: bool = False,
        memory_format: str = "auto",
        variant: str = "ddpm",
        outputs: int = 1,
        numbers: Sequence[str] = (),
        stem_channels: int | None = None,
        norm_groups: int | None = None,
        middle_groups: int | None = None,
        middle_attention: bool = True,
        transformer_depth: int | Sequence[int] | None = None,
        joint_features: int = 0,
        norm_eps: float | None = None,
        sine_first: bool | None = None,
        frequency_shift: int | None = None,
        centred: bool | None = None,
        joint_attention: bool = False,
        guidance_features: int = 0,
    ) -> None:
        super().__init__()
        if channels < 4 or channels % 2:
            raise ValueError(f"a U-Net's channels are even and at least 4, got {channels}; set network.channels")
        sizes = levels_of(resolution, len(channel_mult))
        heads = by_level("heads", heads, len(sizes))
        depths = by_level("transformer_depth", transformer_depth or 0, len(sizes))
        check_least(1, num_res_blocks=num_res_blocks, heads=min(heads))
        if transformer_depth is not None:
            used = [depth for depth, size in zip(depths, sizes, strict=True) if size in attention]
            check_least(1, transformer_depth=min([*used, depths[-1]]))
        given = {"stem_channels": stem_channels, "norm_groups": norm_groups}
        check_least(1, **{name: value for name, value in given.items() if value is not None})
        check_least(
            0, joint_features=joint_features, middle_groups=middle_groups or 0, guidance_features=guidance_features
        )
        if joint_attention and transformer_depth is not None:
            raise ValueError(
                "network.joint_attention is of self-attention, and network.transformer_depth puts transformers in its "
                "place; leave one of them out"
            )
        check_choice("frequency_shift", frequency_shift, (None, 0, 1))
        check_attention(attention, sizes)
        check_choice("memory_format", memory_format, ("auto", "contiguous", "channels_last"))
        check_choice("variant", variant, ("ddpm", "adm"))
        self.numbers = tuple(numbers)
        self.in_channels = in_channels
        self.image_channels = image_channels
        self.token_dim = token_dim
        self.factor = resolution // sizes[-1]
        self.checkpointing = checkpointing
        ddpm, emb_dim = variant == "ddpm", 4 * channels
        eps = (1e-6 if ddpm else 1e-5) if norm_eps is None else norm_eps
        sine_first, centred = (ddpm if sine_first is None else sine_first), (not ddpm if centred is None else centred)
        shift = int(ddpm) if frequency_shift is None else frequency_shift
        widths = [width_of(channels, multiple) for multiple in channel_mult]

        def res(c_in: int, c_out: int, resample: str | None = None) -> ResBlock:
            return ResBlock(c_in, c_out, emb_dim, dropout, scale_shift_norm, eps, resample, norm_groups)

        def attend(width: int, level: int, groups: int | None = norm_groups) -> list[nn.Module]:
            count = heads_of(width, heads[level], head_channels)
            if transformer_depth is not None:
                return [SpatialTransformer(width, depths[level], token_dim, count, dropout, groups)]
            crossed = [CrossAttentionBlock(width, token_dim, count, eps)] if token_dim and not joint_attention else []
            return [AttentionBlock(width, count, eps, groups, token_dim if joint_attention else 0), *crossed]

        self.embedding = Embedding(
            channels, emb_dim, cond_dim, shift, sine_first, numbers, joint_features, guidance_features=guidance_features
        )
        width = widths[0] if stem_channels is None else stem_channels
        self.stem = nn.Conv2d(in_channels + image_channels, width, 3, padding=1)

        self.down = nn.ModuleList()
        skips = [width]
        for level, (size, target) in enumerate(zip(sizes, widths, strict=True)):
            for _ in range(num_res_blocks):
                self.down.append(Stage([res(width, target), *(attend(target, level) if size in attention else [])]))
                width = target
                skips.append(width)
            if level < len(sizes) - 1:
                self.down.append(Stage([res(width, width, "down") if resblock_updown else Downsample(width, centred)]))
                skips.append(width)

        groups = norm_groups if middle_groups is None else middle_groups
        middle = attend(width, -1, groups) if middle_attention else []
        self.middle = Stage([res(width, width), *middle, res(width, width)])

        self.up = nn.ModuleList()
        for level, (size, target) in reversed(list(enumerate(zip(sizes, widths, strict=True)))):
            for i in range(num_res_blocks + 1):
                layers = [res(width + skips.pop(), target), *(attend(target, level) if size in attention else [])]
                width = target
                if i == num_res_blocks and level > 0:
                    layers.append(res(width, width, "up") if resblock_updown else Upsample(width))
                self.up.append(Stage(layers))

        self.norm = group_norm(width, eps, norm_groups)
        self.head = nn.Conv2d(width, (out_channels or in_channels) * (outputs + learned_variance), 3, padding=1)
        self._initialise(xavier=ddpm)
        self.memory_format = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        check_tokens(self.token_dim, cond.tokens)
        context = Context(self.embedding(c_noise, cond.vector, cond.numbers), cond.tokens, cond.mask)
        check_image(x, cond, self.in_channels, self.image_channels, self.factor)
        x = x if cond.image is None else torch.cat((x, cond.image.to(x)), dim=1)
        h = self.stem(x.contiguous(memory_format=self.memory_format))
        skips = [h]
        for stage in self.down:
            h = run(stage, h, context, self.checkpointing)
            skips.append(h)
        h = run(self.middle, h, context, self.checkpointing)
        for stage in self.up:
            h = run(stage, torch.cat((h, skips.pop()), dim=1), context, self.checkpointing)
        return self.head(F.silu(self.norm(h)))

    def _initialise(self, xavier: bool) -> None:
        """DDPM's uniform fan-average weights and zero biases, or torch's own; zeros at the end of every branch."""
        for module in self.modules():
            if xavier and isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if xavier and isinstance(module, SelfAttention):
                for weight in module.qkv.weight.chunk(3):  # three maps, not one
                    nn.init.xavier_uniform_(weight)
            if isinstance(module, ResBlock):
                zero_(module.conv2)
            elif isinstance(module, (AttentionBlock, CrossAttentionBlock)):
                zero_(module.attention.out)
            elif isinstance(module, (Embedding, NumberEmbedding, SpatialTransformer)):
                module.start_at_zero()
        zero_(self.head)
