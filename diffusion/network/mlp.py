"""A residual MLP, for low-dimensional data: points in the plane, a handful of features, tiny images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusion.network.attention import check_tokens
from diffusion.network.base import Network, zero_
from diffusion.network.embedding import Embedding
from diffusion.network.sizes import refuse_image
from diffusion.types import Cond


class MLPBlock(nn.Module):
    """Norm, scale and shift by the embedding, Linear, SiLU, Linear; added to the input."""

    def __init__(self, width: int, emb_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.modulation = nn.Linear(emb_dim, 2 * width)
        self.linear1 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(width, width)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.modulation(emb).chunk(2, dim=-1)
        h_in = torch.addcmul(shift, self.norm(h), scale + 1)
        return h + self.linear2(self.dropout(F.silu(self.linear1(h_in))))


class MLP(Network):
    """x of any shape (B, C, ...) as one vector through residual blocks.

    Args:
        in_channels: C of the data.
        resolution: height and width of the data; 1 also for data without them, (B, C).
        out_channels: of one group, ``in_channels`` where ``None``; ``learned_variance`` adds a group.
        width: of the hidden vector.
        depth: number of blocks.
        cond_dim: width of ``Cond.vector``, 0 for none.
        outputs: groups of channels for the target; two where it has two parts.
        numbers: names of ``Cond.numbers`` that it embeds.
    """

    blocks = (MLPBlock,)

    def __init__(
        self,
        in_channels: int,
        resolution: int = 1,
        out_channels: int | None = None,
        width: int = 256,
        depth: int = 4,
        dropout: float = 0.0,
        cond_dim: int = 0,
        learned_variance: bool = False,
        outputs: int = 1,
        numbers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"network.depth is a number of blocks, at least 1, got {depth}")
        self.numbers = tuple(numbers)
        self.features = in_channels * resolution**2
        self.out_channels = (out_channels or in_channels) * (outputs + learned_variance)
        self.embedding = Embedding(width, width, cond_dim, numbers=numbers)
        self.stem = nn.Linear(self.features, width)
        self.stack = nn.ModuleList(MLPBlock(width, width, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, self.out_channels * resolution**2)
        zero_(self.head, *(module.linear2 for module in self.modules() if isinstance(module, MLPBlock)))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        flat = x.flatten(1)
        if flat.shape[1] != self.features:
            raise ValueError(
                f"this network was built for {self.features} numbers a sample, got {flat.shape[1]}; "
                "set network.in_channels and network.resolution to the data's"
            )
        check_tokens(0, cond.tokens)
        refuse_image(cond)
        emb = self.embedding(c_noise, cond.vector, cond.numbers)
        h = self.stem(flat)
        for block in self.stack:
            h = block(h, emb)
        return self.head(F.silu(self.norm(h))).reshape(len(x), self.out_channels, *x.shape[2:])
