"""Distances to the nearest of other features."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest(rows: Tensor, real: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Distance (N,) of each row (N, D) to its nearest real row (M, D), and the index of that row (N,)."""
    best = torch.full((len(rows),), torch.inf)
    where = torch.zeros(len(rows), dtype=torch.long)
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        for offset in range(0, len(real), chunk):
            distance, at = torch.cdist(rows[part], real[offset : offset + chunk]).min(dim=1)
            closer = distance < best[part]
            best[part] = torch.where(closer, distance, best[part])
            where[part] = torch.where(closer, at + offset, where[part])
    return best, where
