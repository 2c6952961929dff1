"""DDPM++ and NCSN++, the networks of score SDE (Song et al. 2021, appendix H), as EDM uses them too."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.network.attention import SelfAttention, check_tokens, heads_of
from diffusion.network.base import Network, zero_
from diffusion.network.blocks import Context, ResBlock, Stage, group_norm, run
from diffusion.network.embedding import NumberEmbedding
from diffusion.network.sizes import check_attention, check_choice, check_image, check_least, levels_of, width_of
from diffusion.network.song_blocks import (
    InputSkip,
    OutputSkip,
    ResidualInput,
    SongAttentionBlock,
    SongEmbedding,
    SongResBlock,
)
from diffusion.types import Cond


class SongUNet(Network):
    """DDPM's U-Net with sums rescaled by sqrt(1/2) and resampling inside residual blocks.

    Attention of one head follows every block on the way down, and once a level on the way up (Karras et al. 2022,
    table 7). DDPM++ is this with ``taps=None``, ``fourier_scale=None``; NCSN++ has a filter, Fourier features and the
    residual input, or, for images of 256 pixels and more, the input skip and the output skip.

    Args:
        in_channels, resolution, out_channels, channels, channel_mult, num_res_blocks, attention, dropout,
            learned_variance, checkpointing, memory_format, outputs: see :class:`diffusion.network.unet.UNet`.
        taps: of the resampling filter; ``None`` is the mean of four pixels, and repetition.
        fourier_scale: standard deviation of the frequencies of Fourier features of c_noise, which a schedule gives
            as log(sigma) / 4; ``None`` for DDPM's sinusoids.
        residual_input: the input, filtered and halved, joins every level on the way down; needs ``taps``.
        input_skip: it joins them through a 1x1 convolution, unscaled, and stays the input; needs ``taps``.
        output_skip: every level has a head of its own, and their sum is the output; needs ``taps``.
        unit_input: the network reads (x + 1) / 2, which of images lies in [0, 1].
        head_channels: width of a head of attention, ``None`` for one head. norm_eps: of every norm.
        attention_groups: of the norms of attention on both ways, and of the first norms of the blocks before it on the
            way up. middle_groups: of the middle's norms and of the last one. ``None``: 32, less in narrow levels, as
            everywhere else.
        cond_dim: width of ``Cond.vector``, 0 for none; projected unless it has the width of the features of c_noise.
        augment_dim: width of ``Cond.augment_labels``, 0 for none; nothing is added where that slot is empty.
        numbers: names of ``Cond.numbers`` that it embeds.

    Raises:
        ValueError: a size that the data or the levels cannot have, an image that joins the levels without a filter or
            in two ways, groups that do not divide a width.
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
        input_skip: bool = False,
        output_skip: bool = False,
        unit_input: bool = False,
        head_channels: int | None = None,
        norm_eps: float = 1e-6,
        attention_groups: int | None = None,
        middle_groups: int | None = None,
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
        filtering = {"residual_input": residual_input, "input_skip": input_skip, "output_skip": output_skip}
        filtered = [name for name, there in filtering.items() if there]
        if filtered and taps is None:
            raise ValueError(f"network.{filtered[0]} filters images; set network.taps, such as [1, 3, 3, 1]")
        if residual_input and input_skip:
            raise ValueError("the input joins in one way; set network.residual_input or network.input_skip, not both")
        if not norm_eps > 0:
            raise ValueError(f"the epsilon of a norm is above 0, got {norm_eps}; set network.norm_eps")
        check_least(1, num_res_blocks=num_res_blocks)
        sizes = levels_of(resolution, len(channel_mult))
        check_attention(attention, sizes)
        check_choice("memory_format", memory_format, ("auto", "contiguous", "channels_last"))
        self.numbers = tuple(numbers)
        self.in_channels = in_channels
        self.augment_dim = augment_dim
        self.factor = resolution // sizes[-1]
        self.checkpointing = checkpointing
        self.unit_input = unit_input
        emb_dim, widths = 4 * channels, [width_of(channels, multiple) for multiple in channel_mult]

        out = (out_channels or in_channels) * (outputs + learned_variance)

        def res(c_in: int, c_out: int, resample: str | None = None, **groups: int | None) -> SongResBlock:
            return SongResBlock(c_in, c_out, emb_dim, dropout, taps, resample, norm_eps, **groups)

        def attend(width: int, groups: int | None = attention_groups) -> SongAttentionBlock:
            return SongAttentionBlock(width, heads_of(width, 1, head_channels), norm_eps, groups)

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
                if input_skip and taps is not None:
                    self.inputs[str(len(self.down))] = InputSkip(in_channels, width, taps)
                self.down.append(Stage([res(width, width, "down")]))
                skips.append(width)
            for _ in range(num_res_blocks):
                attended = [attend(target)] if size in attention else []
                self.down.append(Stage([res(width, target), *attended]))
                width = target
                skips.append(width)

        ends = [res(width, width, groups=middle_groups) for _ in range(2)]
        self.middle = Stage([ends[0], attend(width, middle_groups), ends[1]])

        self.up = nn.ModuleList()
        self.outputs, self.doubles = nn.ModuleDict(), nn.ModuleDict()  # by the number of the stage before
        for level, (size, target) in reversed(list(enumerate(zip(sizes, widths, strict=True)))):
            for i in range(num_res_blocks + 1):
                last = i == num_res_blocks
                first = attention_groups if size in attention else None
                layers: list[nn.Module] = [res(width + skips.pop(), target, first_groups=first)]
                width = target
                layers += [attend(width)] if last and size in attention else []
                doubles = [res(width, width, "up")] if last and level > 0 else []
                if doubles and output_skip and taps is not None:
                    self.outputs[str(len(self.up))] = OutputSkip(width, out, taps, norm_eps)
                    self.doubles[str(len(self.up))] = Stage(doubles)
                    doubles = []
                self.up.append(Stage([*layers, *doubles]))

        self.norm = group_norm(width, norm_eps, middle_groups)
        self.head = nn.Conv2d(width, out, 3, padding=1)
        self._initialise()
        self.memory_format = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        check_image(x, cond, self.in_channels, 0, self.factor)
        check_tokens(0, cond.tokens)
        context = Context(self.embedding(c_noise, cond.vector, cond.numbers, cond.augment_labels))
        x = x.contiguous(memory_format=self.memory_format)
        x = (x + 1) / 2 if self.unit_input else x
        h = self.stem(x)
        skips = [h]
        for number, stage in enumerate(self.down):
            h = run(stage, h, context, self.checkpointing)
            if str(number) in self.inputs:
                x, h = self.inputs[str(number)](x, h)
            skips.append(h)
        h = run(self.middle, h, context, self.checkpointing)
        y: Tensor | float = 0.0
        for number, stage in enumerate(self.up):
            h = run(stage, torch.cat((h, skips.pop()), dim=1), context, self.checkpointing)
            if str(number) in self.outputs:
                y = self.outputs[str(number)](h, y)
                h = run(self.doubles[str(number)], h, context, self.checkpointing)
        out: Tensor = self.head(F.silu(self.norm(h)))
        return out + y if self.outputs else out

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
            elif isinstance(module, OutputSkip):
                zero_(module.conv)
        zero_(self.head)
