"""DDPM++ and NCSN++, the networks of score SDE (Song et al. 2021, appendix H), as EDM uses them too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.network.attention import SelfAttention, check_tokens
from diffusion.network.base import Network, zero_
from diffusion.network.blocks import Context, ResBlock, Stage, group_norm, run
from diffusion.network.embedding import NumberEmbedding
from diffusion.network.sizes import check_attention, check_choice, check_image, check_least, levels_of, width_of
from diffusion.network.song_blocks import ResidualInput, SongAttentionBlock, SongEmbedding, SongResBlock
from diffusion.types import Cond


class SongUNet(Network):
    """DDPM's U-Net with sums rescaled by sqrt(1/2) and resampling inside residual blocks.

    Attention of one head follows every block on the way down, and once a level on the way up (Karras et al. 2022,
    table 7). DDPM++ is this with ``taps=None``, ``fourier_scale=None``; NCSN++ has a filter, Fourier features and the
    residual input.

    Args:
        in_channels, resolution, out_channels, channels, channel_mult, num_res_blocks, attention, dropout,
            learned_variance, checkpointing, memory_format, outputs: see :class:`diffusion.network.unet.UNet`.
        taps: of the resampling filter; ``None`` is the mean of four pixels, and repetition.
        fourier_scale: standard deviation of the frequencies of Fourier features of c_noise, which a schedule gives
            as log(sigma) / 4; ``None`` for DDPM's sinusoids.
        residual_input: the input, filtered and halved, joins every level on the way down; needs ``taps``.
        cond_dim: width of ``Cond.vector``, 0 for none; projected unless it has the width of the features of c_noise.
        augment_dim: width of ``Cond.augment_labels``, 0 for none; nothing is added where that slot is empty.
        numbers: names of ``Cond.numbers`` that it embeds.

    Raises:
        ValueError: a size that the data or the levels cannot have, or a residual input without a filter.
    """

    blocks = (SongResBlock, SongAttentionBlock)

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        out_channels: int | None = None,
        channels: int = 128,
        channel_mult: Sequence[float] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.1,
        taps: Sequence[float] | None = None,
        fourier_scale: float | None = None,
        residual_input: bool = False,
        cond_dim: int = 0,
        augment_dim: int = 0,
        learned_variance: bool = False,
        checkpointing: bool = False,
        memory_format: str = "auto",
        outputs: int = 1,
        numbers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if channels < 4 or channels % 2:
            raise ValueError(f"a U-Net's channels are even and at least 4, got {channels}; set network.channels")
        if residual_input and taps is None:
            raise ValueError("network.residual_input filters the input; set network.taps, such as [1, 3, 3, 1]")
        check_least(1, num_res_blocks=num_res_blocks)
        sizes = levels_of(resolution, len(channel_mult))
        check_attention(attention, sizes)
        check_choice("memory_format", memory_format, ("auto", "contiguous", "channels_last"))
        self.numbers = tuple(numbers)
        self.in_channels = in_channels
        self.augment_dim = augment_dim
        self.factor = resolution // sizes[-1]
        self.checkpointing = checkpointing
        emb_dim, widths = 4 * channels, [width_of(channels, multiple) for multiple in channel_mult]

        def res(c_in: int, c_out: int, resample: str | None = None) -> SongResBlock:
            return SongResBlock(c_in, c_out, emb_dim, dropout, taps, resample)

        self.embedding = SongEmbedding(channels, emb_dim, cond_dim, augment_dim, fourier_scale, numbers)
        self.stem = nn.Conv2d(in_channels, channels, 3, padding=1)

        self.down = nn.ModuleList()
        self.inputs = nn.ModuleDict()  # by the number of the stage that halves
        width, seen, skips = channels, in_channels, [channels]
        for level, (size, target) in enumerate(zip(sizes, widths, strict=True)):
            if level > 0:
                if residual_input and taps is not None:
                    self.inputs[str(len(self.down))] = ResidualInput(seen, width, taps)
                    seen = width
                self.down.append(Stage([res(width, width, "down")]))
                skips.append(width)
            for _ in range(num_res_blocks):
                attended = [SongAttentionBlock(target)] if size in attention else []
                self.down.append(Stage([res(width, target), *attended]))
                width = target
                skips.append(width)

        self.middle = Stage([res(width, width), SongAttentionBlock(width), res(width, width)])

        self.up = nn.ModuleList()
        for level, (size, target) in reversed(list(enumerate(zip(sizes, widths, strict=True)))):
            for i in range(num_res_blocks + 1):
                last = i == num_res_blocks
                layers: list[nn.Module] = [res(width + skips.pop(), target)]
                width = target
                layers += [SongAttentionBlock(width)] if last and size in attention else []
                layers += [res(width, width, "up")] if last and level > 0 else []
                self.up.append(Stage(layers))

        self.norm = group_norm(width, 1e-6)
        self.head = nn.Conv2d(width, (out_channels or in_channels) * (outputs + learned_variance), 3, padding=1)
        self._initialise()
        self.memory_format = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        check_image(x, cond, self.in_channels, 0, self.factor)
        check_tokens(0, cond.tokens)
        context = Context(self.embedding(c_noise, cond.vector, cond.numbers, cond.augment_labels))
        x = x.contiguous(memory_format=self.memory_format)
        h = self.stem(x)
        skips = [h]
        for number, stage in enumerate(self.down):
            h = run(stage, h, context, self.checkpointing)
            if str(number) in self.inputs:
                h = x = self.inputs[str(number)](x, h)
            skips.append(h)
        h = run(self.middle, h, context, self.checkpointing)
        for stage in self.up:
            h = run(stage, torch.cat((h, skips.pop()), dim=1), context, self.checkpointing)
        return self.head(F.silu(self.norm(h)))

    def _initialise(self) -> None:
        """DDPM's uniform fan-average weights and zero biases, a tenth of the variance for attention's queries, keys and
        values (Song et al. 2021, their code); zeros at the end of every branch."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, SelfAttention):
                for weight in module.qkv.weight.chunk(3):  # three maps, not one
                    nn.init.xavier_uniform_(weight, gain=math.sqrt(0.1))
                zero_(module.out)
            elif isinstance(module, ResBlock):
                zero_(module.conv2)
            elif isinstance(module, NumberEmbedding):
                module.start_at_zero()
        zero_(self.head)
