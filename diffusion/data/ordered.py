"""The evaluation loader: every sample of a split exactly once, in order, without padding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from diffusion.data.split import Split, pinned, share


class OrderedLoader:
    """A split from its first sample to its last, each global batch shared by position.

    A last batch too small to give each rank a sample is joined to the one before, so that all ranks are given the same
    number of batches wherever the split has a sample for each.
    """

    def __init__(
        self, split: Split, batch_size: int, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False
    ) -> None:
        self.split, self.rank, self.world_size, self.pin_memory = split, rank, world_size, pin_memory
        edges = list(range(0, len(split), batch_size))
        if len(edges) > 1 and len(split) - edges[-1] < world_size:
            edges.pop()
        self._edges = [*edges, len(split)]

    def __len__(self) -> int:
        return len(self._edges) - 1 if len(self.split) * (self.rank + 1) // self.world_size else 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start, end in zip(self._edges, self._edges[1:], strict=False):
            rows = share(torch.arange(start, end), self.rank, self.world_size)
            if len(rows):
                batch = self.split.batch(rows.clone())
                yield pinned(batch) if self.pin_memory else batch
