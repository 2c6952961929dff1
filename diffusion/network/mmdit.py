"""The multimodal diffusion transformer of Stable Diffusion 3 (Esser et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion.network.attention import SelfAttention, attend, check_tokens, heads_of
from diffusion.network.base import Network, zero_
from diffusion.network.dit import SINUSOIDS, fan_average_, images_of, modulate, sinusoidal_coordinates
from diffusion.network.embedding import Embedding
from diffusion.network.sizes import check_least, check_patches, refuse_image
from diffusion.types import Cond


class Stream(nn.Module):
    """What one kind of token has of its own in a block: attention's maps, an MLP, and the modulation of both.

    Args:
        ends: the other kind reads these tokens, and nothing comes after: neither an output of attention nor an MLP.
        second: these tokens attend to each other once more, without the other kind (Stable Diffusion 3.5 medium).
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, qk_norm: bool, ends: bool = False, second: bool = False
    ) -> None:
        super().__init__()
        self.parts = 2 if ends else 9 if second else 6
        self.modulation = nn.Linear(width, self.parts * width)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = SelfAttention(width, heads, qk_norm=qk_norm)
        self.second = SelfAttention(width, heads, qk_norm=qk_norm) if second else None
        if ends:
            self.attention.out = nn.Identity()  # type: ignore[assignment]
            return
        hidden = int(width * mlp_ratio)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp1 = nn.Linear(width, hidden)
        self.mlp2 = nn.Linear(hidden, width)

    def split(self, x: Tensor, emb: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], list[Tensor]]:
        """x (B, N, width), emb (B, width) after SiLU -> queries, keys and values (B, heads, N, d), and the modulation
        (B, 1, width) of what comes after."""
        shift, scale, *after = self.modulation(emb)[:, None].chunk(self.parts, dim=-1)
        return self.attention.split(modulate(self.norm1(x), scale, shift)), after

    def merged(self, x: Tensor, attended: Tensor, after: list[Tensor]) -> Tensor:
        """x (B, N, width), what its tokens attended to (B, heads, N, d) -> (B, N, width)."""
        gate1, shift2, scale2, gate2, *own = after
        out = torch.addcmul(x, gate1, self.attention.merged(attended))
        if self.second is not None:
            shift, scale, gate = own
            out = torch.addcmul(out, gate, self.second(modulate(self.norm1(x), scale, shift)))
        h = F.gelu(self.mlp1(modulate(self.norm2(out), scale2, shift2)), approximate="tanh")
        return torch.addcmul(out, gate2, self.mlp2(h))


class MMDiTBlock(nn.Module):
    """Two kinds of tokens, each with weights of its own, in one attention (section 4, figure 2b).

    Args:
        text: there are tokens of a text. last: they are not needed after this block.
        second: the image's tokens attend to each other once more.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, qk_norm: bool, text: bool, last: bool, second: bool
    ) -> None:
        super().__init__()
        self.last = last
        self.image = Stream(width, heads, mlp_ratio, qk_norm, second=second)
        self.text = Stream(width, heads, mlp_ratio, qk_norm, ends=last) if text else None

    def forward(self, x: Tensor, text: Tensor | None, emb: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """x (B, N, width), text (B, L, width), emb (B, width) after SiLU, mask (B, 1, 1, N + L)."""
        image, after = self.image.split(x, emb)
        if self.text is None or text is None:
            return self.image.merged(x, attend(*image), after), text
        words, after_text = self.text.split(text, emb)
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(image, words, strict=True))
        attended, attended_text = attend(q, k, v, mask).split((x.shape[1], text.shape[1]), dim=2)
        x = self.image.merged(x, attended, after)
        return x, text if self.last else self.text.merged(text, attended_text, after_text)


class MMDiT(Network):
    """Patches and ``Cond.tokens`` as two kinds of tokens; the noise level and ``Cond.vector`` modulate both.

    Images of any size up to ``positions`` patches a side: their coordinates are the middle of a fixed table. Without
    ``token_dim`` there is one kind of token, as in :class:`diffusion.network.dit.DiT`.

    Args:
        in_channels: of the data (or of the latents).
        resolution: height and width that it is built for, a multiple of ``patch``; others are coordinates beyond.
        out_channels: of one group, ``in_channels`` where ``None``; ``learned_variance`` adds a group.
        patch: height and width of a token.
        width: of a token, a multiple of 4 (for its two sinusoidal coordinates).
        depth: number of blocks.
        heads: of attention.
        mlp_ratio: hidden width of a block's MLPs over ``width``.
        cond_dim: width of ``Cond.vector``, 0 for none; it passes Linear, SiLU, Linear.
        token_dim: width of ``Cond.tokens``, 0 for none.
        learned_variance: another group of channels comes out (Nichol & Dhariwal 2021).
        outputs: groups of channels for the target; two where it has two parts.
        checkpointing: recompute each block in the backward pass: less memory, about a third more time.
        numbers: names of ``Cond.numbers`` that it embeds.
        positions: patches a side of the table of coordinates, ``resolution / patch`` where ``None``. The table spans
            the same coordinates whatever their number.
        qk_norm: queries and keys are divided by their RMS over a head (section 5.3.2, Stable Diffusion 3.5).
        second_attention: numbers of the blocks where the image's tokens attend to each other once more.

    Raises:
        ValueError: a size that the patches, the heads, the table or the coordinates cannot have.
    """

    blocks = (MMDiTBlock,)
    coordinates: Tensor

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        out_channels: int | None = None,
        patch: int = 2,
        width: int = 384,
        depth: int = 6,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        cond_dim: int = 0,
        token_dim: int = 0,
        learned_variance: bool = False,
        checkpointing: bool = False,
        outputs: int = 1,
        numbers: Sequence[str] = (),
        positions: int | None = None,
        qk_norm: bool = False,
        second_attention: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check_patches(resolution, patch, width)
        if outside := [i for i in second_attention if not 0 <= i < depth]:
            raise ValueError(f"network.second_attention names the blocks {outside}, and there are 0 to {depth - 1}")
        check_least(1, depth=depth, heads=heads)
        check_least(0.1, mlp_ratio=mlp_ratio)
        side = resolution // patch
        self.positions = side if positions is None else positions
        check_least(side, positions=self.positions)
        self.numbers = tuple(numbers)
        self.in_channels = in_channels
        self.patch = patch
        self.token_dim = token_dim
        self.checkpointing = checkpointing
        out = (out_channels or in_channels) * (outputs + learned_variance)
        self.embedding = Embedding(SINUSOIDS, width, cond_dim, 0, False, numbers, vector_mlp=True)
        self.stem = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.register_buffer("coordinates", sinusoidal_coordinates(self.positions, width, side / self.positions))
        self.context = nn.Linear(token_dim, width) if token_dim else None
        count = heads_of(width, heads, None)
        self.stack = nn.ModuleList(
            MMDiTBlock(width, count, mlp_ratio, qk_norm, token_dim > 0, i == depth - 1, i in second_attention)
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch * patch * out)
        fan_average_(self)
        zero_(self.modulation, self.head)
        for module in self.modules():
            if isinstance(module, Stream):
                zero_(module.modulation)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        self._check(x, cond)
        emb = self.embedding(c_noise, cond.vector, cond.numbers)
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self._middle(rows, columns)
        text, mask = None, None
        if self.context is not None and cond.tokens is not None:
            text = self.context(cond.tokens.to(tokens))
            if cond.mask is not None:
                own = cond.mask.new_ones(len(x), rows * columns, dtype=torch.bool)
                mask = torch.cat((own, cond.mask.bool()), dim=1)[:, None, None]
        for block in self.stack:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                tokens, text = checkpoint(block, tokens, text, emb, mask, use_reentrant=False)
            else:
                tokens, text = block(tokens, text, emb, mask)
        shift, scale = self.modulation(emb)[:, None].chunk(2, dim=-1)
        return images_of(self.head(modulate(self.norm(tokens), scale, shift)), rows, self.patch)

    def _middle(self, rows: int, columns: int) -> Tensor:
        """(1, rows columns, width): of the table of coordinates."""
        table = self.coordinates.unflatten(1, (self.positions, self.positions))
        top, left = (self.positions - rows) // 2, (self.positions - columns) // 2
        return table[:, top : top + rows, left : left + columns].flatten(1, 2)

    def _check(self, x: Tensor, cond: Cond) -> None:
        """Refuses x (B, C, H, W) of other channels, or of sizes without patches or coordinates; tokens, an image."""
        most = self.positions * self.patch
        if x.shape[1] != self.in_channels or any(size % self.patch or size > most for size in x.shape[2:]):
            raise ValueError(
                f"this network takes {self.in_channels} channels and sizes that are multiples of {self.patch} up to "
                f"{most}, got {tuple(x.shape[1:])}; set network.in_channels and network.positions to the data's"
            )
        check_tokens(self.token_dim, cond.tokens)
        refuse_image(cond)
