"""Conditioners: a batch of data -> the condition that the network consumes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from diffusion.types import Cond


class Conditioner(nn.Module, ABC):
    """Turns what a batch says of its images into a :class:`Cond`.

    dim: the width of ``Cond.vector`` (or of ``Cond.tokens``), 0 where there is none; the network is built to it.
    drop: probability of training without the condition, so that classifier-free guidance has a null model.
    """

    dim: int = 0
    drop: float = 0.0

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor]) -> Cond:
        """A batch with at least the keys that this conditioner reads -> the condition of its samples."""
