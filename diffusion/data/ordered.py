"""The evaluation loader: every sample of a split exactly once, in order, without padding."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffusion.data.split import Split, pinned, share


class OrderedLoader:
    """A split from its first sample to its last, each global batch shared by position.

    No batch is too small to give each rank a sample (a last one that is gets joined to the one before), so that all
    ranks are given the same number of batches; only a split smaller than the number of ranks leaves some with none.

    moments: (N, ...), given as "moments" in place of images.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        moments: Tensor | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.split, self.moments, self.pin_memory = split, moments, pin_memory
        edges = list(range(0, len(split), max(batch_size, world_size)))
        if len(edges) > 1 and len(split) - edges[-1] < world_size:
            edges.pop()
        batches = (torch.arange(start, end) for start, end in pairwise([*edges, len(split)]))
        self._rows = [mine for rows in batches if len(mine := share(rows, rank, world_size))]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for rows in self._rows:
            rows = rows.clone()
            if self.moments is not None:
                batch = {"moments": self.moments.index_select(0, rows), **self.split.facts(rows)}
            else:
                batch = self.split.batch(rows)
            yield pinned(batch) if self.pin_memory else batch
