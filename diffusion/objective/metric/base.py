"""Metrics: how far two images are from each other, as a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Metric(ABC):
    """d(a, b), at least 0, and 0 where the two are the same."""

    @abstractmethod
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """a, b (B, ...) -> (B,), in float32 at least: near images cancel in less."""


def difference(a: Tensor, b: Tensor) -> Tensor:
    """a - b, (B, d), in float32 at least."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    return (a.to(dtype) - b.to(dtype)).flatten(1)
