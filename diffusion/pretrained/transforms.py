"""How tensors of one layout become those of another, and back: layouts differ, numbers do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """read: their tensors -> ours. write: ours -> theirs, in their newest layout.

    in_order: the numbers of ours are those of theirs, one tensor after the other, in another shape.
    """

    read: Callable[..., Tensor]
    write: Callable[[Tensor], tuple[Tensor, ...]]
    in_order: bool = False


SAME = Transform(lambda x: x, lambda x: (x,), in_order=True)
MATRIX = Transform(lambda x: x.flatten(1), lambda x: (x,), in_order=True)
"""A 1x1 convolution, of one or two dimensions, as the matrix that it is."""
CONVOLVED = Transform(MATRIX.read, lambda x: (x[:, :, None, None],), in_order=True)
"""A 1x1 convolution as the matrix that it is, and as a convolution where it is written."""
JOINED = Transform(
    lambda *parts: torch.cat([x.flatten(1) if x.ndim > 1 else x for x in parts]), lambda x: x.chunk(3), in_order=True
)
"""Queries, keys and values, each its own, as one matrix or bias."""
JOINED_TRANSPOSED = Transform(lambda *x: torch.cat([w.T for w in x]), lambda x: tuple(w.T for w in x.chunk(3)))
"""The same of matrices that multiply from the right."""
PAIR = Transform(JOINED.read, lambda x: x.chunk(2), in_order=True)
"""Keys and values of cross-attention as one matrix."""


def by_head(heads: int) -> Transform:
    """(head, [q k v], d) -> ([q k v], head, d): the order of OpenAI's first codes."""

    def read(x: Tensor) -> Tensor:
        x = x.flatten(1) if x.ndim > 1 else x
        return x.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)

    def write(x: Tensor) -> tuple[Tensor, ...]:
        return (x.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2),)

    return Transform(read, write)


WITH_NULL = Transform(lambda x: torch.cat((x, torch.zeros_like(x[:1]))), lambda x: (x[:-1],))
"""An embedding of classes without a row for "no class" gets one, of zeros: nothing was trained without a class."""
TRANSPOSED = Transform(lambda x: x.T, lambda x: (x.T,))
EXCHANGED = Transform(lambda x: x.roll(len(x) // 2, 0), lambda x: (x.roll(len(x) // 2, 0),))
"""Two halves of a map's rows in the other order: a scale and a shift, a shift and a scale."""


def negated(how: Transform = SAME) -> Transform:
    """The last layer of a network that predicts the opposite."""
    return Transform(lambda *x: -how.read(*x), lambda x: how.write(-x))


def first_group(channels: int, groups: int) -> Transform:
    """Rows of a transformer's head, (patch, patch, group, channel): those of the first group; written with zeros in the
    others, which nobody reads."""

    def read(x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, groups, channels))[:, 0].flatten(0, 1)

    def write(x: Tensor) -> tuple[Tensor, ...]:
        rows = x.unflatten(0, (-1, 1, channels))
        return (torch.cat((rows, *[torch.zeros_like(rows)] * (groups - 1)), dim=1).flatten(0, 2),)

    return Transform(read, write)
