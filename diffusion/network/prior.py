"""The diffusion prior of unCLIP: a causal transformer that predicts the embedding of an image from that of a text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffusion.network.attention import SelfAttention, attend, check_tokens, heads_of
from diffusion.network.base import Network, zero_
from diffusion.network.embedding import NumberEmbedding, sinusoids
from diffusion.network.sizes import check_least, refuse_image
from diffusion.types import Cond


class PriorBlock(nn.Module):
    """h + attention, then + MLP, each of a layer norm of h (Vaswani et al. 2017, with the norms first)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        hidden = int(width * mlp_ratio)
        self.mlp1, self.mlp2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        """h (B, N, width), mask (B or 1, 1, N, N), True where a token sees another -> (B, N, width)."""
        q, k, v = self.attention.split(self.norm1(h))
        h = h + self.dropout(self.attention.merged(attend(q, k, v, mask)))
        return h + self.dropout(self.mlp2(F.gelu(self.mlp1(self.norm2(h)))))


class PriorTransformer(Network):
    """Vectors (B, E): the sequence [tokens of a text, its embedding, noise level, noised vector, query] goes through
    causal attention, and what stands at the query in the end is the output (Ramesh et al. 2022, section 2.2).

    The text's tokens are ``Cond.tokens``, whose mask hides padding; its embedding is ``Cond.vector``. Either may be
    missing, with width 0.

    Args:
        in_channels: E.
        resolution: 1, a vector has no sides.
        width: of a token, even.
        depth: number of blocks.
        heads: of attention.
        mlp_ratio: hidden width of a block's MLP over ``width``.
        length: of ``Cond.tokens``: each has a learned position.
        cond_dim: width of ``Cond.vector``, 0 for none. token_dim: of ``Cond.tokens``, 0 for none.
        learned_variance: another group of E comes out (Nichol & Dhariwal 2021).
        outputs: groups of E for the target; two where it has two parts.
        dropout: after attention and MLP.
        checkpointing: recompute each block in the backward pass: less memory, about a third more time.
        numbers: names of ``Cond.numbers`` that it embeds, added to the noise level's token.

    Raises:
        ValueError: sizes that make no sense.
    """

    blocks = (PriorBlock,)

    def __init__(
        self,
        in_channels: int,
        resolution: int = 1,
        width: int = 2048,
        depth: int = 20,
        heads: int = 32,
        mlp_ratio: float = 4.0,
        length: int = 77,
        cond_dim: int = 0,
        token_dim: int = 0,
        learned_variance: bool = False,
        outputs: int = 1,
        dropout: float = 0.0,
        checkpointing: bool = False,
        numbers: Sequence[str] = (),
    ) -> None:
        super().__init__()
        check_least(1, in_channels=in_channels, depth=depth, heads=heads, length=length)
        check_least(0.1, mlp_ratio=mlp_ratio)
        if width < 4 or width % 2:
            raise ValueError(f"a noise level has sines and cosines: network.width is even and at least 4, got {width}")
        if resolution != 1:
            raise ValueError(
                f"this network takes vectors, and the data are {resolution} x {resolution}; use autoencoder=embedding, "
                "or a network for images"
            )
        self.in_channels, self.cond_dim, self.token_dim = in_channels, cond_dim, token_dim
        self.length, self.width, self.checkpointing = length if token_dim else 0, width, checkpointing
        self.numbers = tuple(numbers)
        self.linear1, self.linear2 = nn.Linear(width, width), nn.Linear(width, width)
        self.embeddings = nn.ModuleDict({name: NumberEmbedding(name, width) for name in numbers})
        self.stem = nn.Linear(in_channels, width)
        self.vector = nn.Linear(cond_dim, width) if cond_dim else None
        self.tokens = nn.Linear(token_dim, width) if token_dim else None
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, self.length + (3 if not cond_dim else 4), width))
        count = heads_of(width, heads, None)
        self.stack = nn.ModuleList(PriorBlock(width, count, mlp_ratio, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, in_channels * (outputs + learned_variance))
        nn.init.normal_(self.positions, std=0.01)
        nn.init.normal_(self.query, std=0.01)
        zero_(self.head)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond = Cond()) -> Tensor:  # noqa: B008 - frozen and empty
        """x (B, E), c_noise (B,) float, cond -> (B, E), or as many groups of it as there are outputs."""
        self._check(x, cond)
        with torch.autocast(c_noise.device.type, enabled=False):
            dtype = self.linear1.weight.dtype
            features = self.sinusoids(c_noise if c_noise.dtype == torch.float64 else c_noise.float()).to(dtype)
            level = self.linear2(F.silu(self.linear1(features)))
            for name in self.numbers:
                if name in cond.numbers:
                    level = level + self.embeddings[name](cond.numbers[name])
        h = self.stem(x)
        tokens = [level.to(h)[:, None], h[:, None], self.query.to(h).expand(len(x), -1, -1)]
        if self.vector is not None and cond.vector is not None:
            tokens.insert(0, self.vector(cond.vector.to(x))[:, None])
        if self.tokens is not None and cond.tokens is not None:
            tokens.insert(0, self.tokens(cond.tokens.to(x)))
        h = torch.cat(tokens, dim=1) + self.positions
        mask = torch.ones(h.shape[1], h.shape[1], dtype=torch.bool, device=h.device).tril()[None, None]
        if cond.mask is not None:
            mask = mask & F.pad(cond.mask.bool(), (0, h.shape[1] - self.length), value=True)[:, None, None]
            mask = mask | torch.eye(
                h.shape[1], dtype=torch.bool, device=h.device
            )  # padding sees itself: no row is empty
        for block in self.stack:
            if self.checkpointing and self.training and torch.is_grad_enabled():
                h = checkpoint(block, h, mask, use_reentrant=False)
            else:
                h = block(h, mask)
        return self.head(self.norm(h[:, -1]))

    def sinusoids(self, c_noise: Tensor) -> Tensor:
        """(B,) -> (B, width), cosines first, in c_noise's dtype."""
        return sinusoids(c_noise, self.width // 2, shift=0, sine_first=False)

    def _check(self, x: Tensor, cond: Cond) -> None:
        if x.ndim != 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"this network takes vectors (B, {self.in_channels}), got {tuple(x.shape)}; set network.in_channels, "
                "or use a network for images"
            )
        refuse_image(cond)
        check_tokens(self.token_dim, cond.tokens)
        given = 0 if cond.vector is None else cond.vector.shape[-1]
        if given != self.cond_dim:
            raise ValueError(
                f"this network was built for a condition vector of width {self.cond_dim} (0 = none) and was given one "
                f"of width {given}; network.cond_dim must equal conditioner.dim"
            )
        if cond.tokens is not None and cond.tokens.shape[1] != self.length:
            raise ValueError(
                f"this network has positions for {self.length} tokens and was given {cond.tokens.shape[1]}; set "
                f"network.length={cond.tokens.shape[1]}"
            )
        if unknown := [name for name in cond.numbers if name not in self.numbers]:
            raise ValueError(
                f"the condition has the numbers {unknown}, which this network does not embed; "
                f"set network.numbers=[{','.join([*self.numbers, *unknown])}]"
            )
