"""The diffusion transformer (Peebles & Xie 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion.network.attention import CrossAttention, SelfAttention, check_tokens, heads_of
from diffusion.network.base import Network, zero_
from diffusion.network.embedding import MAX_PERIOD, Embedding, NumberEmbedding
from diffusion.network.sizes import check_choice, check_least, check_patches, refuse_image
from diffusion.types import Cond

SINUSOIDS = 256
"""Width of the sinusoidal features of the noise level, the same for every size of the model."""


class DiTBlock(nn.Module):
    """Self-attention and an MLP; scale, shift and gate of both come from the condition (adaLN-Zero, section 3.2).

    Where there are condition tokens, ungated cross-attention stands between the two (as in PixArt-alpha, Chen et
    al. 2023).
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float, token_dim: int) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, token_dim, heads) if token_dim else None
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp1 = nn.Linear(width, hidden)
        self.mlp2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, emb: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        """x (B, N, width), emb (B, width) after SiLU, the condition's tokens (B, L, D) and mask (B, L)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(emb)[:, None].chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attention(modulate(self.norm1(x), scale1, shift1)))
        if self.cross is not None and tokens is not None:
            x = x + self.cross(x, tokens, mask)
        h = self.dropout(F.gelu(self.mlp1(modulate(self.norm2(x), scale2, shift2)), approximate="tanh"))
        return torch.addcmul(x, gate2, self.mlp2(h))


class DiT(Network):
    """Patches as tokens through blocks that the noise level and ``Cond.vector`` modulate.

    Args:
        in_channels: of the data (or of the latents).
        resolution: height and width of the data, a multiple of ``patch``.
        out_channels: of one group, ``in_channels`` where ``None``; ``learned_variance`` adds a group.
        patch: height and width of a token.
        width: of a token, a multiple of 4 (for its two sinusoidal coordinates).
        depth: number of blocks.
        heads: of attention.
        mlp_ratio: hidden width of a block's MLP over ``width``.
        cond_dim: width of ``Cond.vector``, 0 for none; projected unless it equals ``width``.
        token_dim: width of ``Cond.tokens``, 0 for none.
        learned_variance: another group of channels comes out (Nichol & Dhariwal 2021).
        outputs: groups of channels for the target; two where it has two parts.
        checkpointing: recompute each block in the backward pass: less memory, about a third more time.
        numbers: names of ``Cond.numbers`` that it embeds.
        frequency_shift: the frequencies of c_noise are 10000^(-i / (half - shift)).
        block_embeddings: every block embeds the noise level and ``Cond.vector`` by itself, as in diffusers; the head is
            modulated by the first block's.

    Raises:
        ValueError: a size that the patches, the heads or the coordinates cannot have.
    """

    blocks = (DiTBlock,)
    coordinates: Tensor

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        out_channels: int | None = None,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        cond_dim: int = 0,
        token_dim: int = 0,
        learned_variance: bool = False,
        checkpointing: bool = False,
        outputs: int = 1,
        numbers: Sequence[str] = (),
        frequency_shift: int = 0,
        block_embeddings: bool = False,
    ) -> None:
        super().__init__()
        check_patches(resolution, patch, width)
        check_least(1, depth=depth, heads=heads)
        check_least(0.1, mlp_ratio=mlp_ratio)
        check_choice("frequency_shift", frequency_shift, (0, 1))
        self.numbers = tuple(numbers)
        self.in_channels = in_channels
        self.resolution = resolution
        self.patch = patch
        self.token_dim = token_dim
        self.checkpointing = checkpointing
        out = (out_channels or in_channels) * (outputs + learned_variance)

        def embedding() -> Embedding:
            return Embedding(SINUSOIDS, width, cond_dim, frequency_shift, False, numbers)

        self.embedding = embedding()
        self.embeddings = nn.ModuleList(embedding() for _ in range(depth - 1) if block_embeddings)
        self.stem = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.register_buffer("coordinates", sinusoidal_coordinates(resolution // patch, width), persistent=False)
        count = heads_of(width, heads, None)
        self.stack = nn.ModuleList(DiTBlock(width, count, mlp_ratio, dropout, token_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch * patch * out)
        self._initialise()

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        self._check(x, cond)
        emb = self.embedding(c_noise, cond.vector, cond.numbers)
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.coordinates
        others = [embed(c_noise, cond.vector, cond.numbers) for embed in self.embeddings] or [emb] * len(self.stack)
        for block, own in zip(self.stack, [emb, *others], strict=False):
            if self.checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, own, cond.tokens, cond.mask, use_reentrant=False)
            else:
                tokens = block(tokens, own, cond.tokens, cond.mask)
        shift, scale = self.modulation(emb)[:, None].chunk(2, dim=-1)
        out = self.head(modulate(self.norm(tokens), scale, shift))
        return images_of(out, self.resolution // self.patch, self.patch)

    def _check(self, x: Tensor, cond: Cond) -> None:
        if x.shape[1:] != (self.in_channels, self.resolution, self.resolution):
            raise ValueError(
                f"this network was built for ({self.in_channels}, {self.resolution}, {self.resolution}), got "
                f"{tuple(x.shape[1:])}; set network.in_channels and network.resolution to the data's"
            )
        check_tokens(self.token_dim, cond.tokens)
        refuse_image(cond)

    def _initialise(self) -> None:
        """Every gate, cross-attention and the head start at zero."""
        fan_average_(self)
        zero_(self.modulation, self.head)
        for module in self.modules():
            if isinstance(module, DiTBlock):
                zero_(module.modulation)
            elif isinstance(module, CrossAttention):
                zero_(module.out)


def fan_average_(network: nn.Module) -> None:
    """Uniform fan-average weights and zero biases, of the patches' convolutions too; smaller ones for embeddings."""
    modules = list(network.modules())
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for module in modules:
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    for module in modules:
        if isinstance(module, Embedding):
            nn.init.normal_(module.linear1.weight, std=0.02)
            nn.init.normal_(module.linear2.weight, std=0.02)
    for module in modules:
        if isinstance(module, NumberEmbedding):
            module.start_at_zero()


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x (1 + scale) + shift, (B, N, width), by a scale and a shift (B, 1, width)."""
    return torch.addcmul(shift, x, scale + 1)


def images_of(tokens: Tensor, rows: int, patch: int) -> Tensor:
    """Patches (B, rows columns, patch patch C), row by row -> (B, C, rows patch, columns patch)."""
    patches = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (rows, -1))  # (B, h, w, p, p, C)
    return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sinusoidal_coordinates(side: int, width: int, step: float = 1.0) -> Tensor:
    """(1, side^2, width): sines and cosines of the column, then of the row, a quarter of the width each.

    step: from one column or row to the next.
    """
    frequencies = MAX_PERIOD ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = step * torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    features = torch.cat((angle.sin(), angle.cos()), dim=1)
    column, row = features.repeat(side, 1), features.repeat_interleave(side, 0)
    return torch.cat((column, row), dim=1).float()[None]
